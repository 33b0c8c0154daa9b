-- include batch
-- Note whose custom ids these are; a line that is checked again is no stranger to itself.
-- KEYS: none   ARGV: batch, custom id, line, custom id, line, …
-- Returns the lines whose id another line has.
local key = 'batch:' .. ARGV[1] .. ':ids'
local doubles = {}
for i = 2, #ARGV, 2 do
  if redis.call('HSETNX', key, ARGV[i], ARGV[i + 1]) == 0 and redis.call('HGET', key, ARGV[i]) ~= ARGV[i + 1] then
    doubles[#doubles + 1] = tonumber(ARGV[i + 1])
  end
end
outlive(key, ARGV[1])
return doubles
