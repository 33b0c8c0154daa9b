-- What the API knows of the fleet: model cards seen lately and the heartbeats of live workers.
-- KEYS: workers, models, models seen   ARGV: how long a card outlives its last worker, s
-- Returns {cards, heartbeats}.
local now = redis.call('TIME')[1]
local horizon = now - tonumber(ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', horizon)
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', horizon)) do
  redis.call('HDEL', KEYS[2], name)
  redis.call('ZREM', KEYS[3], name)
end
local heartbeats = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local beat = redis.call('GET', 'worker:' .. id)
  if beat then heartbeats[#heartbeats + 1] = beat end
end
return {redis.call('HVALS', KEYS[2]), heartbeats}
