-- Make a job unreadable: its request is gone at once, its log soon, and no queue's books are touched.
-- KEYS: job, log, dead letters   ARGV: id, seconds that what is left may live
-- Returns 1, or 0 when there was nothing to forget. What keeps the queue's books stays in the record: its worker may not have
-- released it yet, and the log has to show for as long that the job is over.
if redis.call('HDEL', KEYS[1], 'spec') == 0 then return 0 end
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
