-- include file
-- Make a file of what was uploaded.
-- KEYS: none   ARGV: id, record, tenant, created ms, bytes, ttl ms, pieces, most bytes and most files that the tenant may store
-- Returns 1, 0 when pieces are gone, -1 when the tenant stores too much, -2 too many; then nothing is left of it.
if redis.call('EXISTS', 'file:' .. ARGV[1]) == 1 then return 1 end
if redis.call('LLEN', 'file:' .. ARGV[1] .. ':data') ~= tonumber(ARGV[7]) then return 0 end
local bytes, num_files = stored(ARGV[3])
local is_too_much, is_too_many = bytes + ARGV[5] > tonumber(ARGV[8]), num_files >= tonumber(ARGV[9])
if is_too_much or is_too_many then
  drop_unused(ARGV[1])
  return is_too_much and -1 or -2
end
keep_file(ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
return 1
