-- include queue
-- Take jobs: first back from workers whose lease ran out, then what waits, the most urgent class first, its tenants in turn.
-- KEYS: queue   ARGV: worker, free, spare, lease ms
-- `free` places are for any class, the `spare` ones after them for `batch` only by its age: the worker makes room for those by
-- giving a batch job back. Returns id, enqueue ms, attempt, crashes, class of each. The lease's value is `worker:attempt`;
-- clocks are Redis' own, so hosts need not agree. A batch job that had its turn by age comes as `default`: it need not give way.
local queue, worker, now = KEYS[1], ARGV[1], clock_ms()
local leases, lease_ms = queue .. ':leases', tonumber(ARGV[4])
local REAPED = 128 -- at most, per call
local PAGES = {4, 64} -- tenants looked at together, at first and then
local AGED_EVERY = 4 -- places that old jobs of later classes get one of

-- Whoever runs the job keeps it, else it waits again. Workers of the version before this one keep no list of leases.
local function put_back(id)
  local left = redis.call('PTTL', 'arq:in-progress:' .. id)
  if left > 0 then
    if not facts(queue, id) then count(queue, id) end
    redis.call('ZADD', leases, whole(now + left), id)
  else
    redis.call('ZREM', leases, id)
    put_in(queue, id, now)
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', whole(now), 'LIMIT', 0, REAPED)) do
  if redis.call('ZSCORE', queue, id) then
    put_back(id)
  else -- it ended where nobody keeps these books
    redis.call('ZREM', leases, id)
    end_job(queue, id, now, '')
  end
end

-- What neither waits nor runs came from a process of the version before this one.
local num_waiting = tonumber(redis.call('HGET', queue .. ':sums', 'waiting_jobs') or 0)
if redis.call('ZCARD', queue) > num_waiting + redis.call('ZCARD', leases) then
  for _, id in ipairs(redis.call('ZRANGE', queue, 0, -1)) do
    local job = facts(queue, id)
    local waits = job and redis.call('ZSCORE', queue .. ':class:' .. job.class, id)
    if not waits and not redis.call('ZSCORE', leases, id) then put_back(id) end
  end
end

-- The first class that has a job, or the one whose oldest came first, head starts counted. Such old jobs get one place of
-- some only: else a long queue of them would turn the order of the classes round. A spare place is for batch only by its age:
-- a worker that always has urgent work has no other places.
local num_aged = tonumber(redis.call('HGET', queue .. ':sums', 'aged') or 0)
local function next_class(is_spare)
  local first, best, best_at = nil, nil, nil
  for _, class in ipairs(CLASSES) do
    local head = redis.call('ZRANGE', queue .. ':class:' .. class[1], 0, 0, 'WITHSCORES')
    if head[2] then
      local at = head[2] + class[2]
      if not (is_spare and class[1] == 'batch') then first = first or class[1] end
      if not best_at or at < best_at then best, best_at = class[1], at end
    end
  end
  if best == first or not first then
    num_aged = 0
    return first, false
  end
  num_aged = num_aged + 1
  if num_aged % AGED_EVERY == 1 then return best, true end
  return first, false
end

local function grant_all(balances, tokens)
  for _, tenant in ipairs(redis.call('HKEYS', balances)) do add(balances, tenant, tokens) end
end

-- One page of the ring: each tenant gets a quantum, but the first while its turn goes on. Who waits and has tokens then stays at
-- the head and is returned, who waits for nothing and owes nothing leaves, the others go to the end. Also returns how many were
-- seen and the least debt.
local function turn_ring(class, size, page)
  local ring, balances, costs = queue .. ':ring:' .. class, queue .. ':balance:' .. class, queue .. ':cost:' .. class
  local tenants = redis.call('LRANGE', ring, 0, page - 1)
  local had, waits = redis.call('HMGET', balances, unpack(tenants)), redis.call('HMGET', costs, unpack(tenants))
  local kept, num_seen, found, least_debt = {}, 0, nil, math.huge
  local goes_on = redis.call('HEXISTS', queue .. ':sums', 'turn:' .. class) == 1
  for i, tenant in ipairs(tenants) do
    local balance = tonumber(had[i])
    if i > 1 or not goes_on then balance = add(balances, tenant, size) end
    if waits[i] and balance > 0 then
      found = tenant
      break
    end
    num_seen = num_seen + 1
    if waits[i] or balance <= 0 then kept[#kept + 1] = tenant else redis.call('HDEL', balances, tenant) end
    if waits[i] then least_debt = math.min(least_debt, -balance) end
  end
  if num_seen > 0 then
    redis.call('LTRIM', ring, num_seen, -1)
    if #kept > 0 then redis.call('RPUSH', ring, unpack(kept)) end
    redis.call('HDEL', queue .. ':sums', 'turn:' .. class)
  end
  return found, num_seen, least_debt
end

-- Deficit round robin, in the form where a tenant is served while its balance is positive and pays afterwards.
local function next_tenant(class, size)
  local ring = queue .. ':ring:' .. class
  local length, page = redis.call('LLEN', ring), PAGES[1]
  local unseen, least_debt = length, math.huge
  for _ = 1, 3 * length + 3 do
    local tenant, num_seen, debt = turn_ring(class, size, page)
    if tenant then return tenant end
    unseen, least_debt, page = unseen - num_seen, math.min(least_debt, debt), PAGES[2]
    if unseen <= 0 then -- all are in debt: the rounds until the first is not, at once
      grant_all(queue .. ':balance:' .. class, math.floor(least_debt / size) * size)
      unseen, least_debt = redis.call('LLEN', ring), math.huge
    end
  end
  error('the ring of ' .. queue .. ' has nobody who waits')
end

-- A turn ends when the tokens are spent; who has credit gets no more than two quanta at a time.
local function pay(class, tenant, cost, size)
  local ring, sums = queue .. ':ring:' .. class, queue .. ':sums'
  local balance = add(queue .. ':balance:' .. class, tenant, -cost)
  if balance <= 0 or add(sums, 'turn:' .. class, cost) >= 2 * size then
    redis.call('LMOVE', ring, ring, 'LEFT', 'RIGHT')
    redis.call('HDEL', sums, 'turn:' .. class)
  end
end

local taken = {}
local function take(class, is_aged)
  local size = quantum(queue, class)
  local tenant = next_tenant(class, size)
  local id = redis.call('ZRANGE', queue .. ':wait:' .. class .. ':' .. tenant, 0, 0)[1]
  local is_alone = redis.call('HLEN', queue .. ':cost:' .. class) == 1
  local job = facts(queue, id)
  local price = likely(queue, job)
  pay(class, tenant, price, size)
  take_out(queue, id, now)
  if not redis.call('ZSCORE', queue, id) then return end_job(queue, id, now, '') end
  if redis.call('PTTL', 'arq:in-progress:' .. id) > 0 then return put_back(id) end
  -- What was paid while nobody else waited took nothing from anybody, so none of it comes back.
  if not is_alone then
    job.paid = price
    note(queue, id, job)
  end
  local attempt, crashes = 0, '0'
  if redis.call('EXISTS', 'job:' .. id) == 1 then
    attempt = redis.call('HINCRBY', 'job:' .. id, 'attempts', 1)
    crashes = redis.call('HGET', 'job:' .. id, 'crashes') or '0'
  end
  redis.call('SET', 'arq:in-progress:' .. id, worker .. ':' .. attempt, 'PX', ARGV[4])
  redis.call('ZADD', leases, whole(now + lease_ms), id)
  if is_aged and class == 'batch' then class = 'default' end
  for _, field in ipairs({id, whole(job.queued_ms), tostring(attempt), crashes, class}) do taken[#taken + 1] = field end
end

local free, spare, num_aged_before = tonumber(ARGV[2]), tonumber(ARGV[3]), num_aged
while #taken < 5 * (free + spare) do
  local class, is_aged = next_class(#taken >= 5 * free)
  if not class then break end
  take(class, is_aged)
end
if num_aged ~= num_aged_before and redis.call('HEXISTS', queue .. ':sums', 'waiting_jobs') == 1 then
  redis.call('HSET', queue .. ':sums', 'aged', whole(num_aged))
end
return taken
