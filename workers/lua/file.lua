-- What several scripts share: how a file comes into being and what is left of it.
-- A file F of tenant T is: file:F (its record), file:F:data (LIST: its pieces), file:F:users (SET: batches that read it, whose
-- data outlives the record), files:T (ZSET: ids by creation, ms), files:T:bytes (HASH: id -> size).
local function keep_file(id, record, tenant, created_ms, bytes, ttl_ms)
  redis.call('SET', 'file:' .. id, record, 'PX', ttl_ms)
  redis.call('PEXPIRE', 'file:' .. id .. ':data', ttl_ms)
  local files = 'files:' .. tenant
  redis.call('ZADD', files, created_ms, id)
  redis.call('HSET', files .. ':bytes', id, bytes)
  for _, key in ipairs({files, files .. ':bytes'}) do
    if redis.call('PTTL', key) < tonumber(ttl_ms) then redis.call('PEXPIRE', key, ttl_ms) end
  end
end

local function drop_unused(id)
  local file = 'file:' .. id
  if redis.call('EXISTS', file, file .. ':users') == 0 then redis.call('UNLINK', file .. ':data') end
end

-- Bytes of the tenant's files, and how many there are; what has expired is forgotten.
local function stored(tenant)
  local files, sum, num = 'files:' .. tenant, 0, 0
  local sizes = redis.call('HGETALL', files .. ':bytes')
  for i = 1, #sizes, 2 do
    if redis.call('EXISTS', 'file:' .. sizes[i]) == 1 then
      sum, num = sum + sizes[i + 1], num + 1
    else
      redis.call('ZREM', files, sizes[i])
      redis.call('HDEL', files .. ':bytes', sizes[i])
    end
  end
  return sum, num
end
