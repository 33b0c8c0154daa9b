-- include batch
-- Move a batch on, if it still is where the caller saw it.
-- KEYS: none
-- ARGV: batch, status, offset, how many fields, field, value, …, how many lines begin to run, line, what it is, …, lines that
-- fail at once …
-- Returns 1, or 0 when it has moved meanwhile (perhaps by this call's first try, whose reply was lost).
local id, batch = ARGV[1], 'batch:' .. ARGV[1]
local now = redis.call('HMGET', batch, 'status', 'offset')
if now[1] ~= ARGV[2] or now[2] ~= ARGV[3] then return 0 end
local at = 5
for _ = 1, tonumber(ARGV[4]) do
  redis.call('HSET', batch, ARGV[at], ARGV[at + 1])
  at = at + 2
end
local num_open = tonumber(ARGV[at])
at = at + 1
for _ = 1, num_open do
  redis.call('HSET', batch .. ':open', ARGV[at], ARGV[at + 1])
  at = at + 2
end
if num_open > 0 then outlive(batch .. ':open', id) end
local num_failed = #ARGV - at + 1
for i = at, #ARGV do add_line(id, 'errors', ARGV[i]) end
if num_failed > 0 then redis.call('HINCRBY', batch, 'failed', num_failed) end
return 1
