-- Say that a worker lives and what it serves.
-- KEYS: worker, workers, models, models seen   ARGV: worker id, heartbeat, ttl ms, model name, card
local now = redis.call('TIME')[1]
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('HSET', KEYS[3], ARGV[4], ARGV[5])
redis.call('ZADD', KEYS[4], now, ARGV[4])
return 1
