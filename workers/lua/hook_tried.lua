-- Note how a try to deliver an event ended, unless another event has taken its place meanwhile.
-- KEYS: hook, dead hooks   ARGV: id, state, error, ttl s, subject, most dead hooks
-- Returns 1, or 0 when the event is another one now.
local id = redis.call('HGET', KEYS[1], 'id')
if id ~= ARGV[1] then
  if not id then redis.call('DEL', KEYS[1]) end
  return 0
end
redis.call('HSET', KEYS[1], 'state', ARGV[2], 'error', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
if ARGV[2] == 'dead' then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[5])
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[4] * 1000)
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -tonumber(ARGV[6]) - 1)
end
return 1
