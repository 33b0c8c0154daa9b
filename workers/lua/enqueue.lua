-- include queue, idempotency
-- Admit a job and wake a worker, or say why not; nothing is written unless it is admitted.
-- KEYS: job, arq job, log, queue, idempotency record, limit bucket
-- ARGV: spec, arq record, admission: a map of
--   id, tenant, class, home, cost, prompt_tokens, ttl_ms, deadline_ms and wait_ms (from now on, 0 for none), is_followed, is_line,
--   wake, max_jobs, max_tokens, tenant_jobs, requests_per_min, tokens_per_min (0 for no limit), digest ('' for none), digest_ttl_ms
-- Returns {1, requests left, tokens left} admitted (-1: no limit), {0} the id is taken, {2, job id} the key's job is there,
-- {-1, retry s} the fleet is full, {-2, retry s} the tenant has enough jobs, {-3, retry s, 'requests' or 'tokens', and both left}
-- a rate limit, {-4, wait ms} the deadline cannot be met, {-5} the key was used for another body, {-6} it was cancelled before it came.
local a = cmsgpack.unpack(ARGV[3])
local queue, now = KEYS[4], clock_ms()
local GIVE_UP = 0.98 -- of a record's life

local known, is_same = begun(KEYS[5], a.digest)
if known and known ~= a.id then -- our own id is a first try whose reply was lost
  if not is_same then return {-5} end
  return {2, known}
end
if redis.call('EXISTS', KEYS[1], KEYS[2], KEYS[3]) > 0 then return {0} end
if redis.call('EXISTS', 'cancel:' .. a.id) == 1 then return {-6} end -- nobody waits for it any more

local function wait_ms() return expected_wait(queue, a.class, a.tenant, now) end

local sums = redis.call('HMGET', queue .. ':sums', 'waiting_jobs', 'waiting_tokens')
local num_jobs = redis.call('ZCARD', queue)
if num_jobs >= a.max_jobs then return {-1, retry_s(wait_ms())} end
if tonumber(sums[1] or 0) > 0 and tonumber(sums[2] or 0) + a.prompt_tokens > a.max_tokens then
  return {-1, retry_s(wait_ms())}
end
-- A batch puts in as many lines as it likes, so they take no place from what its tenant asks for beside it.
local function num_own()
  local own = redis.call('HGET', queue .. ':tenants', a.tenant) or 0
  return own - (redis.call('HGET', queue .. ':lines', a.tenant) or 0)
end
if a.tenant_jobs > 0 and num_own() >= a.tenant_jobs then return {-2, retry_s(wait_ms())} end

-- Token buckets that hold a minute's worth and refill all the time. A bucket may be in debt: a job is charged what it asked
-- for, and what it did not use comes back at its end. One that asks for more than a minute's worth needs a full bucket.
local LIMITED = {'requests', 'tokens'}
local left, limits, prices = {-1, -1}, {a.requests_per_min, a.tokens_per_min}, {1, a.cost}
-- A bucket in debt has nothing left.
local function remaining(i) return limits[i] > 0 and math.max(0, math.floor(left[i])) or -1 end
if limits[1] > 0 or limits[2] > 0 then
  local bucket = redis.call('HMGET', KEYS[6], 'requests', 'tokens', 'at_ms')
  local short = nil
  for i, limit in ipairs(limits) do
    if limit > 0 then
      local refill = limit * math.max(0, now - (bucket[3] or now)) / 60000
      left[i] = math.min(limit, tonumber(bucket[i] or limit) + refill)
      local price = math.min(prices[i], limit)
      if left[i] < price and not short then
        short = {-3, retry_s((price - left[i]) * 60000 / limit), LIMITED[i]}
      end
    end
  end
  if short then
    short[4], short[5] = remaining(1), remaining(2)
    return short
  end
  for i, limit in ipairs(limits) do
    if limit > 0 then left[i] = left[i] - prices[i] end
  end
end

if a.deadline_ms > 0 then
  local wait = wait_ms()
  if wait and wait > a.deadline_ms then return {-4, wait} end
end

if limits[1] > 0 or limits[2] > 0 then
  for i, name in ipairs(LIMITED) do
    if limits[i] > 0 then redis.call('HSET', KEYS[6], name, tostring(left[i])) else redis.call('HDEL', KEYS[6], name) end
  end
  redis.call('HSET', KEYS[6], 'at_ms', whole(now))
  redis.call('PEXPIRE', KEYS[6], '3600000')
end
redis.call('HSET', KEYS[1], 'spec', ARGV[1], 'queue', queue, 'queued_ms', whole(now), 'tenant', a.tenant, 'class', a.class,
  'home', a.home, 'cost', whole(a.cost), 'prompt_tokens', whole(a.prompt_tokens), 'is_followed', a.is_followed and '1' or '0')
redis.call('PEXPIRE', KEYS[1], whole(a.ttl_ms))
redis.call('SET', KEYS[2], ARGV[2], 'PX', whole(a.ttl_ms))
if a.deadline_ms > 0 then redis.call('HSET', KEYS[1], 'deadline_ms', whole(now + a.deadline_ms)) end
-- Whoever waits must not vanish with the record: nobody would be told, and the queue would count it for ever.
local wait = GIVE_UP * a.ttl_ms
for _, ms in ipairs({a.wait_ms, a.deadline_ms}) do
  if ms > 0 then wait = math.min(wait, ms) end
end
redis.call('ZADD', 'chores', whole(now + wait), 'wait:' .. a.id)
note_begun(KEYS[5], a.digest, a.id, a.digest_ttl_ms)
redis.call('ZADD', queue, whole(now), a.id)
put_in(queue, a.id, now, begin_count(queue, a.id, {class = a.class, tenant = a.tenant, cost = a.cost, tokens = a.prompt_tokens,
  is_followed = a.is_followed, is_line = a.is_line, is_charged = a.tokens_per_min > 0, queued_ms = now, paid = 0}))
redis.call('PUBLISH', a.wake, '1')
return {1, remaining(1), remaining(2)}
