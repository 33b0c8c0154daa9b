-- include file, idempotency
-- Make a file of what was uploaded.
-- KEYS: idempotency record   ARGV: id, record, tenant, created ms, bytes, ttl ms, pieces, most bytes and most files that the
-- tenant may store, digest ('' for none), how long it is remembered, ms
-- Returns 1, 0 when pieces are gone, -1 when the tenant stores too much, -2 too many, -3 when the key was used for another
-- body, or the id of the file that it began before; with all but 1 nothing is left of the upload.
if redis.call('EXISTS', 'file:' .. ARGV[1]) == 1 then return 1 end
local known, is_same = begun(KEYS[1], ARGV[10])
if known then
  drop_unused(ARGV[1])
  return is_same and known or -3
end
if redis.call('LLEN', 'file:' .. ARGV[1] .. ':data') ~= tonumber(ARGV[7]) then return 0 end
local bytes, num_files = stored(ARGV[3])
local is_too_much, is_too_many = bytes + ARGV[5] > tonumber(ARGV[8]), num_files >= tonumber(ARGV[9])
if is_too_much or is_too_many then
  drop_unused(ARGV[1])
  return is_too_much and -1 or -2
end
keep_file(ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
note_begun(KEYS[1], ARGV[10], ARGV[1], ARGV[11])
return 1
