-- include queue
-- End an attempt, but only our own: a worker that lost its lease must not delete what its successor holds.
-- KEYS: lease, queue, arq job, arq retry, job, log
-- ARGV: owner, id, how (`done`, `dead`, `hand_back`, `crashed`), wake channel, result ttl ms, tokens used (-1: unknown), outcome
-- Returns 1, or 0 when the lease was not ours. A graceful hand-back does not count against the job's tries; `dead` is `done`
-- with a place among the dead letters, where an operator may start it again.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local queue, id, how, now = KEYS[2], ARGV[2], ARGV[3], clock_ms()
redis.call('DEL', KEYS[1])
redis.call('ZREM', queue .. ':leases', id)
local is_known = redis.call('EXISTS', KEYS[5]) == 1
if is_known then redis.call('HSET', KEYS[5], 'released', ARGV[1]) end

if how == 'hand_back' or how == 'crashed' then
  if how == 'hand_back' and redis.call('EXISTS', KEYS[4]) == 1 then redis.call('DECR', KEYS[4]) end
  if how == 'crashed' and is_known then redis.call('HINCRBY', KEYS[5], 'crashes', 1) end
  if redis.call('ZSCORE', queue, id) then put_in(queue, id, now) end
  redis.call('PUBLISH', ARGV[4], '1')
  return 1
end

local job, used = facts(queue, id), tonumber(ARGV[6])
if job then drain(queue, now, job.cost) end
end_job(queue, id, now, ARGV[7], used >= 0 and used or nil)
redis.call('DEL', KEYS[3], KEYS[4])
redis.call('PEXPIRE', KEYS[5], ARGV[5])
if how == 'dead' then
  if ARGV[7] == 'engine_crashed' and is_known then redis.call('HINCRBY', KEYS[5], 'crashes', 1) end
  redis.call('ZADD', 'dead', whole(now), id)
  for _, old in ipairs(redis.call('ZRANGE', 'dead', 0, 15)) do -- some of those that have expired
    if redis.call('EXISTS', 'job:' .. old) == 0 then redis.call('ZREM', 'dead', old) end
  end
  redis.call('PEXPIRE', KEYS[6], ARGV[5])
end
return 1
