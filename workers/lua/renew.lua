-- Renew the leases of all running jobs of one worker.
-- KEYS: none   ARGV: lease ms, record ttl ms, then id, owner, attempt of each job
-- Returns per job 0 lost, 1 renewed, 2 renewed and cancelled. A lease that ran out (a pause, a Redis restart) is taken
-- back as long as no later attempt has begun.
local states = {}
for i = 3, #ARGV, 3 do
  local id, owner, attempt = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local lease = 'arq:in-progress:' .. id
  local holder = redis.call('GET', lease)
  local state = 0
  if holder == owner or (not holder and redis.call('HGET', 'job:' .. id, 'attempts') == attempt) then
    redis.call('SET', lease, owner, 'PX', ARGV[1])
    redis.call('PEXPIRE', 'job:' .. id, ARGV[2])
    redis.call('PEXPIRE', 'arq:job:' .. id, ARGV[2])
    state = 1 + redis.call('EXISTS', 'cancel:' .. id)
  end
  states[#states + 1] = state
end
return states
