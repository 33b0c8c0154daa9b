-- What several scripts share: where a waiting job stands, whose turn it is, how fast the queue drains.
-- A queue Q is: Q (all that has not ended), Q:class:C (what waits in a class, by age), Q:wait:C:T (what waits of a tenant),
-- Q:ring:C (tenants in turn), Q:balance:C (their tokens), Q:cost:C (what they wait for), Q:leases, Q:sums, Q:tenants.
local QUANTUM = 1024 -- tokens a tenant gets per turn
local TAU_MS = 30000 -- how far back the drain rate looks
local DEFAULT_RETRY_S, MAX_RETRY_S = 5, 120 -- clients such as openai-python do not wait longer
-- A job of a later class is served before one of an earlier class that came so much later: nothing starves.
local CLASSES = {{'interactive', 0}, {'default', 10000}, {'batch', 600000}}

local function clock_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- For the command line of Redis: some servers write a large number as 1e+06, and -0 is no integer.
local function whole(number) return string.format('%.0f', number + 0) end

local function add(key, field, number) return redis.call('HINCRBY', key, field, whole(number)) end

local function facts(id)
  local job = redis.call('HMGET', 'job:' .. id, 'class', 'tenant', 'queued_ms', 'cost', 'prompt_tokens')
  return job[1] or 'default', job[2] or '', job[3] or '0', tonumber(job[4] or 0), tonumber(job[5] or 0)
end

-- The job begins to wait, or waits again at the place that its age gives it.
local function put_in(queue, id)
  local class, tenant, queued_ms, cost, tokens = facts(id)
  local waiting = queue .. ':wait:' .. class .. ':' .. tenant
  if redis.call('ZADD', waiting, queued_ms, id) == 0 then return end
  if redis.call('ZCARD', waiting) == 1 then redis.call('RPUSH', queue .. ':ring:' .. class, tenant) end
  redis.call('ZADD', queue .. ':class:' .. class, queued_ms, id)
  add(queue .. ':cost:' .. class, tenant, cost)
  add(queue .. ':sums', 'waiting_jobs', 1)
  add(queue .. ':sums', 'waiting_tokens', tokens)
end

local function leave_ring(queue, class, tenant)
  local ring, balances = queue .. ':ring:' .. class, queue .. ':balance:' .. class
  redis.call('LREM', ring, 0, tenant)
  redis.call('HDEL', queue .. ':cost:' .. class, tenant)
  -- A credit ends with the turn, a debt stays as long as somebody else waits for it.
  if tonumber(redis.call('HGET', balances, tenant) or 0) >= 0 then redis.call('HDEL', balances, tenant) end
  if redis.call('EXISTS', ring) == 0 then redis.call('DEL', balances) end
end

-- The job waits no longer; false if it did not wait.
local function take_out(queue, id, class, tenant)
  local waiting = queue .. ':wait:' .. class .. ':' .. tenant
  if redis.call('ZREM', waiting, id) == 0 then return false end
  local _, _, _, cost, tokens = facts(id)
  redis.call('ZREM', queue .. ':class:' .. class, id)
  add(queue .. ':cost:' .. class, tenant, -cost)
  if redis.call('EXISTS', waiting) == 0 then leave_ring(queue, class, tenant) end
  add(queue .. ':sums', 'waiting_tokens', -tokens)
  if add(queue .. ':sums', 'waiting_jobs', -1) <= 0 then
    redis.call('HSET', queue .. ':sums', 'waiting_jobs', 0, 'waiting_tokens', 0)
  end
  return true
end

local function take_out_by_id(queue, id)
  local class, tenant = facts(id)
  return take_out(queue, id, class, tenant)
end

-- Tokens per ms that the queue's workers made lately, nil before the first job has ended. Idle time does not count.
local function drain_rate(queue, now)
  local sums = redis.call('HMGET', queue .. ':sums', 'rate_tokens', 'rate_at', 'rate_from')
  if not sums[1] then return nil end
  local span = TAU_MS * (1 - math.exp(-math.max(now - sums[3], 1) / TAU_MS))
  return sums[1] * math.exp(-math.max(now - sums[2], 0) / TAU_MS) / span
end

local function note_drained(queue, now, tokens)
  local sums = queue .. ':sums'
  local past = redis.call('HMGET', sums, 'rate_tokens', 'rate_at', 'rate_from')
  local kept = 0
  if past[1] then kept = past[1] * math.exp(-math.max(now - past[2], 0) / TAU_MS) end
  redis.call('HSET', sums, 'rate_tokens', tostring(kept + tokens), 'rate_at', whole(now))
  redis.call('HSETNX', sums, 'rate_from', whole(now))
end

local function begin_busy(queue, now)
  local sums = queue .. ':sums'
  local past = redis.call('HMGET', sums, 'idle_at', 'rate_at', 'rate_from')
  if past[1] and past[2] then
    local idle = now - past[1]
    redis.call('HSET', sums, 'rate_at', whole(past[2] + idle), 'rate_from', whole(past[3] + idle))
  elseif not past[3] then
    redis.call('HSET', sums, 'rate_from', whole(now))
  end
  redis.call('HDEL', sums, 'idle_at')
end

-- How long a job of this tenant and class, enqueued now, would wait, in ms; nil if nobody knows.
-- Fair turns: no more than what waits before it at all, and no more than its tenant's own jobs at the tenant's share.
local function expected_wait(queue, class, tenant, now)
  local ahead, own, tenants = 0, 0, 0
  for _, one in ipairs(CLASSES) do
    local costs = redis.call('HGETALL', queue .. ':cost:' .. one[1])
    for i = 1, #costs, 2 do
      ahead = ahead + costs[i + 1]
      tenants = tenants + 1
      if costs[i] == tenant then own = own + costs[i + 1] end
    end
    if one[1] == class then break end
  end
  if ahead == 0 then return 0 end
  local rate = drain_rate(queue, now)
  if not rate or rate <= 0 then return nil end
  return math.min(ahead, own * tenants + QUANTUM * tenants) / rate
end

local function retry_s(wait_ms)
  if not wait_ms then return DEFAULT_RETRY_S end
  return math.max(1, math.min(MAX_RETRY_S, math.ceil(wait_ms / 1000)))
end

-- The job is over: it counts for nobody any more, and who follows it hears of it.
local function end_job(queue, id, now, outcome)
  local job = 'job:' .. id
  redis.call('ZREM', queue, id)
  local record = redis.call('HMGET', job, 'tenant', 'is_followed')
  if record[1] then
    if add(queue .. ':tenants', record[1], -1) <= 0 then redis.call('HDEL', queue .. ':tenants', record[1]) end
    redis.call('HSET', job, 'finished_ms', whole(now), 'outcome', outcome)
  end
  redis.call('ZREM', 'chores', 'wait:' .. id)
  if record[2] == '1' then
    redis.call('ZADD', 'chores', whole(now), 'ended:' .. id)
    redis.call('PUBLISH', 'chores', '1')
  end
  if redis.call('EXISTS', queue) == 0 then redis.call('HSET', queue .. ':sums', 'idle_at', whole(now)) end
end
