-- include queue
-- Start a dead letter again, from the last token that it sent.
-- KEYS: job, log, arq job, arq retry, queue   ARGV: id, its terminal entry, entry to put in its place, arq record, ttl ms, wake channel
-- Returns 1, or 0 when it is no dead letter any more.
if not redis.call('ZSCORE', 'dead', ARGV[1]) then
  return redis.call('LINDEX', KEYS[2], -1) == ARGV[3] and 1 or 0 -- a first try whose reply was lost
end
if redis.call('LINDEX', KEYS[2], -1) ~= ARGV[2] or redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('ZREM', 'dead', ARGV[1])
  return 0
end
local now = clock_ms()
redis.call('ZREM', 'dead', ARGV[1])
redis.call('LSET', KEYS[2], -1, ARGV[3])
redis.call('HDEL', KEYS[1], 'crashes', 'started_ms', 'finished_ms', 'outcome', 'deadline_ms')
redis.call('HSET', KEYS[1], 'queued_ms', whole(now))
redis.call('SET', KEYS[3], ARGV[4], 'PX', ARGV[5])
redis.call('DEL', KEYS[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
redis.call('ZADD', KEYS[5], whole(now), ARGV[1])
put_in(KEYS[5], ARGV[1], now)
redis.call('PUBLISH', ARGV[6], '1')
return 1
