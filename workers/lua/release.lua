-- End an attempt, but only our own: a worker that lost its lease must not delete what its successor holds.
-- KEYS: lease, queue, arq job, arq retry   ARGV: owner, id, `done` or `hand_back`, wake channel
-- Returns 1, or 0 when the lease was not ours.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
if ARGV[3] == 'done' then
  redis.call('ZREM', KEYS[2], ARGV[2])
  redis.call('DEL', KEYS[3], KEYS[4])
else
  redis.call('PUBLISH', ARGV[4], '1')
end
return 1
