-- Note an event for a webhook, once: a second call for the same occasion only sees that somebody is still about to deliver it.
-- KEYS: hook, chores   ARGV: occasion, chore, channel, ttl s, id of a first event, id of a later one, field, value, …
-- Returns 1 when it is new.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local known = redis.call('HMGET', KEYS[1], 'occasion', 'state')
local is_new = known[1] ~= ARGV[1]
if is_new then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'occasion', ARGV[1], 'state', 'waiting', 'attempts', 0, 'id', known[1] and ARGV[6] or ARGV[5], unpack(ARGV, 7))
  redis.call('EXPIRE', KEYS[1], ARGV[4])
  redis.call('ZADD', KEYS[2], now, ARGV[2])
elseif known[2] == 'waiting' then
  redis.call('ZADD', KEYS[2], 'NX', now, ARGV[2])
end
redis.call('PUBLISH', ARGV[3], '1')
return is_new and 1 or 0
