-- Take up to `free` jobs that nobody holds, oldest first. Clocks are Redis' own, so hosts need not agree.
-- KEYS: queue   ARGV: worker, free, lease ms, how many entries to look at
-- Returns id, score, attempt, id, score, attempt, …  The lease's value is `worker:attempt`.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local free = tonumber(ARGV[2])
local queued = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now_ms), 'WITHSCORES', 'LIMIT', 0, ARGV[4])
local taken = {}
for i = 1, #queued, 2 do
  if #taken >= free * 3 then break end
  local id = queued[i]
  local lease = 'arq:in-progress:' .. id
  if redis.call('EXISTS', lease) == 0 then
    local attempt = 0
    if redis.call('EXISTS', 'job:' .. id) == 1 then attempt = redis.call('HINCRBY', 'job:' .. id, 'attempts', 1) end
    redis.call('SET', lease, ARGV[1] .. ':' .. attempt, 'PX', ARGV[3])
    taken[#taken + 1] = id
    taken[#taken + 1] = queued[i + 1]
    taken[#taken + 1] = tostring(attempt)
  end
end
return taken
