-- include queue
-- Take jobs: first back from workers whose lease ran out, then what waits, the most urgent class first, its tenants in turn.
-- KEYS: queue   ARGV: worker, free, spare, lease ms
-- `free` places are for any class, the `spare` ones after them not for `batch`: the worker makes room for those by giving a
-- batch job back. Returns id, enqueue ms, attempt, crashes, class of each. The lease's value is `worker:attempt`; clocks are
-- Redis' own, so hosts need not agree. A batch job that had its turn by age comes as `default`: it need not give way.
local queue, worker, now = KEYS[1], ARGV[1], clock_ms()
local leases, lease_ms = queue .. ':leases', tonumber(ARGV[4])
local REAPED = 128

for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', whole(now), 'LIMIT', 0, REAPED)) do
  local left = redis.call('PTTL', 'arq:in-progress:' .. id)
  if left > 0 then
    redis.call('ZADD', leases, whole(now + left), id)
  else
    redis.call('ZREM', leases, id)
    if redis.call('ZSCORE', queue, id) then put_in(queue, id) end
  end
end

local function next_class(is_spare)
  local best, best_at, num = nil, nil, 0
  for _, class in ipairs(CLASSES) do
    local head = redis.call('ZRANGE', queue .. ':class:' .. class[1], 0, 0, 'WITHSCORES')
    if head[2] and not (is_spare and class[1] == 'batch') then
      num = num + 1
      local at = head[2] + class[2]
      if not best_at or at < best_at then best, best_at = class[1], at end
    end
  end
  return best, num > 1
end

-- Deficit round robin, in the form where a tenant is served while its balance is positive and pays afterwards.
local function next_tenant(class)
  local ring, balances = queue .. ':ring:' .. class, queue .. ':balance:' .. class
  for _ = 1, redis.call('LLEN', ring) do
    local tenant = redis.call('LINDEX', ring, 0)
    if tonumber(redis.call('HGET', balances, tenant) or 0) > 0 then return tenant end
    if redis.call('HINCRBY', balances, tenant, QUANTUM) > 0 then return tenant end
    redis.call('RPUSH', ring, redis.call('LPOP', ring))
  end
  -- All are in debt: as many turns at once as it takes until one is not.
  local tenants, turns = redis.call('LRANGE', ring, 0, -1), nil
  for _, tenant in ipairs(tenants) do
    local needs = math.floor(-redis.call('HGET', balances, tenant) / QUANTUM) + 1
    if not turns or needs < turns then turns = needs end
  end
  for _, tenant in ipairs(tenants) do redis.call('HINCRBY', balances, tenant, whole(turns * QUANTUM)) end
  while tonumber(redis.call('HGET', balances, redis.call('LINDEX', ring, 0))) <= 0 do
    redis.call('RPUSH', ring, redis.call('LPOP', ring))
  end
  return redis.call('LINDEX', ring, 0)
end

local function pay(class, tenant, cost)
  local ring, balances = queue .. ':ring:' .. class, queue .. ':balance:' .. class
  local balance = redis.call('HINCRBY', balances, tenant, whole(-cost))
  if balance <= 0 then redis.call('RPUSH', ring, redis.call('LPOP', ring)) end
end

local taken = {}
local function take(class, is_aged)
  local tenant = next_tenant(class)
  local id = redis.call('ZRANGE', queue .. ':wait:' .. class .. ':' .. tenant, 0, 0)[1]
  local _, _, queued_ms, cost = facts(id)
  pay(class, tenant, cost)
  take_out(queue, id, class, tenant)
  local attempt, crashes = 0, '0'
  if redis.call('EXISTS', 'job:' .. id) == 1 then
    attempt = redis.call('HINCRBY', 'job:' .. id, 'attempts', 1)
    crashes = redis.call('HGET', 'job:' .. id, 'crashes') or '0'
  end
  redis.call('SET', 'arq:in-progress:' .. id, worker .. ':' .. attempt, 'PX', ARGV[4])
  redis.call('ZADD', leases, whole(now + lease_ms), id)
  if is_aged and class == 'batch' then class = 'default' end
  for _, field in ipairs({id, queued_ms, tostring(attempt), crashes, class}) do taken[#taken + 1] = field end
end

local free, spare = tonumber(ARGV[2]), tonumber(ARGV[3])
for place = 1, free + spare do
  local class, is_aged = next_class(place > free)
  if not class then break end
  take(class, is_aged)
end
return taken
