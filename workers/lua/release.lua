-- End an attempt, but only our own: a worker that lost its lease must not delete what its successor holds.
-- KEYS: lease, queue, arq job, arq retry, job
-- ARGV: owner, id, how (`done`, `hand_back`, `crashed`), wake channel, result ttl ms
-- Returns 1, or 0 when the lease was not ours. A graceful hand-back does not count against the job's tries.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
if redis.call('EXISTS', KEYS[5]) == 1 then
  redis.call('HSET', KEYS[5], 'released', ARGV[1])
end
if ARGV[3] == 'done' then
  redis.call('ZREM', KEYS[2], ARGV[2])
  redis.call('DEL', KEYS[3], KEYS[4])
  redis.call('PEXPIRE', KEYS[5], ARGV[5])
else
  if ARGV[3] == 'hand_back' and redis.call('EXISTS', KEYS[4]) == 1 then redis.call('DECR', KEYS[4]) end
  redis.call('PUBLISH', ARGV[4], '1')
end
return 1
