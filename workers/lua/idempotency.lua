-- What several scripts share: what an Idempotency-Key began before.
-- Its record is a HASH with expiry: `digest` of the body that came with it, and `job`, the id of what it began, which may be a
-- file or a batch as well.
local function is_there(id)
  return redis.call('HEXISTS', 'job:' .. id, 'spec') == 1 or redis.call('EXISTS', 'file:' .. id, 'batch:' .. id) > 0
end

-- The id, and whether the body was the same; nil if the key is free. What was forgotten answers for nothing.
local function begun(key, digest)
  if digest == '' then return nil end
  local known = redis.call('HMGET', key, 'digest', 'job')
  if not known[1] or not is_there(known[2]) then return nil end
  return known[2], known[1] == digest
end

local function note_begun(key, digest, id, ttl_ms)
  if digest == '' then return end
  redis.call('HSET', key, 'digest', digest, 'job', id)
  redis.call('PEXPIRE', key, string.format('%.0f', ttl_ms))
end
