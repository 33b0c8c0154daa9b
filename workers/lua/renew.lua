-- include queue
-- Renew the leases of all running jobs of one worker.
-- KEYS: queue   ARGV: lease ms, record ttl ms, then id, owner, attempt of each job
-- Returns per job 0 lost, 1 renewed, 2 renewed and cancelled. A lease that ran out (a pause, a Redis restart) is taken
-- back as long as the job has not ended, no later attempt has begun and we did not release it ourselves a moment ago. A job
-- whose record Redis lost altogether stays ours: nobody else can have it, and its log is written again from our memory.
local states, queue = {}, KEYS[1]
local now = clock_ms()
local ends_ms = whole(now + ARGV[1])
for i = 3, #ARGV, 3 do
  local id, owner, attempt = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local lease, job = 'arq:in-progress:' .. id, 'job:' .. id
  local holder = redis.call('GET', lease)
  local is_ours = holder == owner
  if not holder then
    local record = redis.call('HMGET', job, 'attempts', 'released')
    is_ours = not record[1] or record[1] == attempt and record[2] ~= owner and redis.call('ZSCORE', queue, id)
    if is_ours then take_out(queue, id, now) end -- another worker may have reaped it
  end
  local state = 0
  if is_ours then
    redis.call('SET', lease, owner, 'PX', ARGV[1])
    redis.call('ZADD', queue .. ':leases', ends_ms, id)
    redis.call('PEXPIRE', job, ARGV[2])
    redis.call('PEXPIRE', 'arq:job:' .. id, ARGV[2])
    state = 1 + redis.call('EXISTS', 'cancel:' .. id)
  end
  states[#states + 1] = state
end
return states
