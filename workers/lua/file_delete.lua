-- include file
-- Forget a file. A batch that reads it goes on with its data.
-- KEYS: none   ARGV: id, tenant
-- Returns 1, 0 if there was none.
local num_gone = redis.call('DEL', 'file:' .. ARGV[1])
redis.call('ZREM', 'files:' .. ARGV[2], ARGV[1])
redis.call('HDEL', 'files:' .. ARGV[2] .. ':bytes', ARGV[1])
drop_unused(ARGV[1])
return num_gone
