-- Say that a worker lives and what it serves.
-- KEYS: worker, workers, models, models seen, isq   ARGV: worker id, heartbeat, ttl ms, model name, card,
-- how long what re_isq asked for outlives the model's workers, ms
-- Returns the change of weights that the model's workers are to have, '' for none.
local now = redis.call('TIME')[1]
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('HSET', KEYS[3], ARGV[4], ARGV[5])
redis.call('ZADD', KEYS[4], now, ARGV[4])
redis.call('PEXPIRE', KEYS[5], ARGV[6])
return redis.call('HGET', KEYS[5], 'change') or ''
