-- What several scripts share: what a queue counts of its jobs, where one waits, whose turn it is, how fast the queue drains.
-- A queue Q is: Q (all that has not ended, by when it came), Q:jobs (what is counted of each), Q:class:C (what waits in a
-- class), Q:wait:C:T (what waits of a tenant), Q:cost:C (what each tenant waits for), Q:ring:C (tenants in turn), Q:balance:C
-- (their tokens; the ring's tenants and no others), Q:ratio:C (what a tenant's jobs used of what they asked for, lately),
-- Q:leases (what runs), Q:sums, Q:tenants (how many jobs each has), Q:lines (how many of those are lines of batches).
local MIN_QUANTUM = 1024 -- tokens that a tenant gets per turn; more where jobs are larger
local MAX_CREDIT = 32 -- quanta
local LEARN = 1 / 8 -- how much of a new ratio one job is
local TAU_MS = 30000 -- how far back the drain rate looks
local SETTLE_MS, MIN_KNOWN_MS = 250, 1000
local DEFAULT_RETRY_S, MAX_RETRY_S = 5, 120 -- clients such as openai-python do not wait longer
local MAX_WAIT_MS = 86400000
-- A job of a later class comes before one of an earlier class that came so much later: nothing starves.
local CLASSES = {{'interactive', 0}, {'default', 10000}, {'batch', 600000}}

local function clock_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- For the command line of Redis: some servers write a large number as 1e+06, and -0 is no integer.
local function whole(number) return string.format('%.0f', number + 0) end

local function add(key, field, number) return redis.call('HINCRBY', key, field, whole(number)) end

local function facts(queue, id)
  local packed = redis.call('HGET', queue .. ':jobs', id)
  return packed and cmsgpack.unpack(packed)
end

local function note(queue, id, job) redis.call('HSET', queue .. ':jobs', id, cmsgpack.pack(job)) end

-- A job is counted from the first time that it waits until it ends, even if its record expires meanwhile.
local function begin_count(queue, id, job)
  note(queue, id, job)
  add(queue .. ':tenants', job.tenant, 1)
  if job.is_line then add(queue .. ':lines', job.tenant, 1) end
  return job
end

-- Records of other versions may lack fields, or have a class that we do not know.
local function count(queue, id)
  local record = redis.call('HMGET', 'job:' .. id, 'class', 'tenant', 'cost', 'prompt_tokens', 'is_followed')
  local job = {class = 'default', tenant = record[2] or '', cost = tonumber(record[3] or 0), paid = 0,
    tokens = tonumber(record[4] or 0), is_followed = record[5] == '1', queued_ms = tonumber(redis.call('ZSCORE', queue, id))}
  for _, class in ipairs(CLASSES) do
    if class[1] == record[1] then job.class = class[1] end
  end
  return begin_count(queue, id, job)
end

local function quantum(queue, class)
  local num = redis.call('ZCARD', queue .. ':class:' .. class)
  local cost = tonumber(redis.call('HGET', queue .. ':sums', 'cost:' .. class) or 0)
  return math.max(MIN_QUANTUM, math.ceil(cost / math.max(num, 1)))
end

-- A tenant has one place in the ring, while it waits and until its debt is paid.
local function join_ring(queue, class, tenant)
  if redis.call('HSETNX', queue .. ':balance:' .. class, tenant, 0) == 1 then
    redis.call('RPUSH', queue .. ':ring:' .. class, tenant)
  end
end

-- What a job turned out to cost more or less than its tenant paid. Only while somebody waits, and a credit has an end.
local function credit(queue, job, tokens)
  local class, tenant = job.class, job.tenant
  local balances = queue .. ':balance:' .. class
  if redis.call('EXISTS', balances) == 0 then return end
  if tokens < 0 then join_ring(queue, class, tenant) end
  if redis.call('HEXISTS', balances, tenant) == 0 then return end
  local most = 0
  if redis.call('HEXISTS', queue .. ':cost:' .. class, tenant) == 1 then most = MAX_CREDIT * quantum(queue, class) end
  if add(balances, tenant, tokens) > most and tokens > 0 then redis.call('HSET', balances, tenant, whole(most)) end
end

-- Jobs often use far less than they ask for. Tenants pay what is likely, and what is wrong with that when it is known: to take
-- all at first would let few of a tenant's jobs run at a time.
local function likely(queue, job)
  local ratio = redis.call('HGET', queue .. ':ratio:' .. job.class, job.tenant) or 1
  return math.max(1, math.ceil(job.cost * ratio))
end

local function settle(queue, job, used)
  local ratios = queue .. ':ratio:' .. job.class
  if job.paid == 0 then return end
  credit(queue, job, job.paid - used)
  if used == 0 or job.cost == 0 or redis.call('EXISTS', queue .. ':balance:' .. job.class) == 0 then return end
  local ratio = redis.call('HGET', ratios, job.tenant) or 1
  redis.call('HSET', ratios, job.tenant, tostring(ratio + LEARN * (used / job.cost - ratio)))
end

-- The rate is measured while jobs have waited for a while: then the workers do what they can. A worker that has room takes
-- what comes at once, and says nothing of how much it could take. Returns tokens and ms, both forgotten by and by.
local function drain(queue, now, tokens)
  local past = redis.call('HMGET', queue .. ':sums', 'wait_from', 'drain_at', 'drained', 'drain_ms')
  local drained, ms = tonumber(past[3] or 0), tonumber(past[4] or 0)
  if not past[1] then return drained, ms end
  local span = now - math.max(past[1] + SETTLE_MS, tonumber(past[2] or 0))
  if span < 0 then return drained, ms end
  local kept = math.exp(-span / TAU_MS)
  if drained > 0 then drained = math.max(drained * kept, 1e-6) end -- slow beyond measure is not unknown
  drained, ms = drained + (tokens or 0), ms * kept + TAU_MS * (1 - kept)
  if tokens then
    redis.call('HSET', queue .. ':sums', 'drain_at', whole(now), 'drained', tostring(drained), 'drain_ms', tostring(ms))
  end
  return drained, ms
end

-- The job begins to wait, or waits again at the place that its age gives it.
local function put_in(queue, id, now, job)
  job = job or facts(queue, id) or count(queue, id)
  local class, tenant, queued_ms, sums = job.class, job.tenant, whole(job.queued_ms), queue .. ':sums'
  if redis.call('ZADD', queue .. ':wait:' .. class .. ':' .. tenant, queued_ms, id) == 0 then return end
  join_ring(queue, class, tenant)
  redis.call('ZADD', queue .. ':class:' .. class, queued_ms, id)
  add(queue .. ':cost:' .. class, tenant, job.cost)
  add(sums, 'cost:' .. class, job.cost)
  if job.tokens > 0 then add(sums, 'waiting_tokens', job.tokens) end
  if job.paid > 0 then -- an attempt that came to nothing
    credit(queue, job, job.paid)
    job.paid = 0
    note(queue, id, job)
  end
  if add(sums, 'waiting_jobs', 1) == 1 then redis.call('HSET', sums, 'wait_from', whole(now)) end
end

-- The job waits no longer. Returns what is counted of it, nil if it did not wait.
local function take_out(queue, id, now)
  local job, sums = facts(queue, id), queue .. ':sums'
  if not job then return nil end
  local class, tenant = job.class, job.tenant
  local waiting, costs = queue .. ':wait:' .. class .. ':' .. tenant, queue .. ':cost:' .. class
  if redis.call('ZREM', waiting, id) == 0 then return nil end
  redis.call('ZREM', queue .. ':class:' .. class, id)
  add(sums, 'cost:' .. class, -job.cost)
  if job.tokens > 0 then add(sums, 'waiting_tokens', -job.tokens) end
  if redis.call('EXISTS', waiting) == 1 then
    add(costs, tenant, -job.cost)
  elseif redis.call('HDEL', costs, tenant) and redis.call('EXISTS', costs) == 0 then
    -- Nobody waits: debts are forgotten.
    redis.call('DEL', queue .. ':ring:' .. class, queue .. ':balance:' .. class, queue .. ':ratio:' .. class)
    redis.call('HDEL', sums, 'cost:' .. class, 'turn:' .. class)
  end
  if add(sums, 'waiting_jobs', -1) == 0 then
    drain(queue, now, 0)
    redis.call('HDEL', sums, 'waiting_jobs', 'waiting_tokens', 'wait_from', 'aged')
  end
  return job
end

-- How long a job of this tenant and class, enqueued now, would wait, in ms; nil if nobody knows. Before it come all earlier
-- classes; of its own, what its tenant has and, in fair turns, as much of each other one.
local function expected_wait(queue, class, tenant, now)
  local ahead, sums, costs = 0, queue .. ':sums', queue .. ':cost:' .. class
  for _, one in ipairs(CLASSES) do
    local cost = tonumber(redis.call('HGET', sums, 'cost:' .. one[1]) or 0)
    if one[1] == class then
      local own, others = redis.call('HGET', costs, tenant), redis.call('HLEN', costs)
      if own then others = others - 1 end
      own = tonumber(own or 0)
      ahead = ahead + math.min(cost, own + others * (own + quantum(queue, class)))
      break
    end
    ahead = ahead + cost
  end
  if ahead == 0 then return 0 end
  local drained, ms = drain(queue, now)
  if ms < MIN_KNOWN_MS or drained <= 0 then return nil end
  return math.min(MAX_WAIT_MS, math.ceil(ahead * ms / drained))
end

local function leave(counts, tenant)
  if add(counts, tenant, -1) <= 0 then redis.call('HDEL', counts, tenant) end
end

local function retry_s(wait_ms)
  if not wait_ms then return DEFAULT_RETRY_S end
  return math.max(1, math.min(MAX_RETRY_S, math.ceil(wait_ms / 1000)))
end

-- The job is over: it counts for nobody any more, its tenant gets back what it did not use, and who follows it hears of it.
-- `used` is nil where nobody knows. One that is not counted (a lease outlived all that Redis knew) leaves the books alone.
local function end_job(queue, id, now, outcome, used)
  local job, record = facts(queue, id), 'job:' .. id
  redis.call('ZREM', queue, id)
  redis.call('ZREM', 'chores', 'wait:' .. id)
  if not job then return end
  if redis.call('EXISTS', record) == 1 then redis.call('HSET', record, 'finished_ms', whole(now), 'outcome', outcome) end
  redis.call('HDEL', queue .. ':jobs', id)
  leave(queue .. ':tenants', job.tenant)
  if job.is_line then leave(queue .. ':lines', job.tenant) end
  if used then
    local bucket = 'limit:' .. job.tenant
    settle(queue, job, used)
    if job.is_charged and redis.call('HEXISTS', bucket, 'tokens') == 1 then
      redis.call('HINCRBYFLOAT', bucket, 'tokens', whole(job.cost - used))
    end
  end
  if job.is_followed then
    redis.call('ZADD', 'chores', whole(now), 'ended:' .. id)
    redis.call('PUBLISH', 'chores', '1')
  end
end
