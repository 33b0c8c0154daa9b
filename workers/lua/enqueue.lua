-- Write the job, then put it in its queue and wake a worker.
-- KEYS: job, arq job, log, queue   ARGV: id, spec, arq record, ttl ms, most jobs in the queue, wake channel
-- Returns 1 accepted, 0 the id is taken, -1 the queue is full.
if redis.call('EXISTS', KEYS[1], KEYS[2], KEYS[3]) > 0 then return 0 end
if redis.call('ZCARD', KEYS[4]) >= tonumber(ARGV[5]) then return -1 end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'spec', ARGV[2], 'queued_ms', string.format('%.0f', now_ms))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
redis.call('ZADD', KEYS[4], string.format('%.0f', now_ms), ARGV[1])
redis.call('PUBLISH', ARGV[6], '1')
return 1
