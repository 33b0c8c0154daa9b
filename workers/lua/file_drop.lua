-- include file
-- Forget an upload, unless it has become a file: its reply may be lost.
-- KEYS: none   ARGV: id
drop_unused(ARGV[1])
return 1
