-- Take up to `free` jobs that nobody holds, oldest first. Clocks are Redis' own, so hosts need not agree.
-- KEYS: queue   ARGV: worker, free, lease ms, how many entries to look at
-- Returns id, score, attempt, id, score, attempt, …  The lease's value is `worker:attempt`.
-- Running jobs stay in the queue until they end, so the scan goes in pages past them.
local time = redis.call('TIME')
local now_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local free, most = tonumber(ARGV[2]), tonumber(ARGV[4])
local page_size = 128
local taken, seen = {}, 0
while #taken < free * 3 and seen < most do
  local page = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms, 'WITHSCORES', 'LIMIT', seen, page_size)
  if #page == 0 then break end
  for i = 1, #page, 2 do
    if #taken >= free * 3 then break end
    local id = page[i]
    local lease = 'arq:in-progress:' .. id
    if redis.call('EXISTS', lease) == 0 then
      local attempt = 0
      if redis.call('EXISTS', 'job:' .. id) == 1 then attempt = redis.call('HINCRBY', 'job:' .. id, 'attempts', 1) end
      redis.call('SET', lease, ARGV[1] .. ':' .. attempt, 'PX', ARGV[3])
      taken[#taken + 1] = id
      taken[#taken + 1] = page[i + 1]
      taken[#taken + 1] = tostring(attempt)
    end
  end
  seen = seen + page_size
end
return taken
