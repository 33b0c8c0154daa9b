-- include batch, idempotency
-- Begin a batch.
-- KEYS: idempotency record   ARGV: id, record, tenant, created ms, ttl ms, input file, digest ('' for none), how long it is
-- remembered, ms
-- Returns 1, 0 when the file is gone, -1 when the key was used for another body, or the id of the batch that it began before.
-- The file's data stays for as long as the batch may need it.
local id, file = ARGV[1], 'file:' .. ARGV[6]
local batch, batches = 'batch:' .. id, 'batches:' .. ARGV[3]
if redis.call('EXISTS', batch) == 1 then return 1 end
local known, is_same = begun(KEYS[1], ARGV[7])
if known then return is_same and known or -1 end
if redis.call('EXISTS', file) == 0 then return 0 end
redis.call('HSET', batch, 'record', ARGV[2], 'status', 'validating', 'ending', '', 'line', 1, 'offset', 0)
redis.call('PEXPIRE', batch, ARGV[5])
redis.call('ZADD', batches, ARGV[4], id)
redis.call('ZREMRANGEBYSCORE', batches, '-inf', string.format('%.0f', ARGV[4] - 2 * ARGV[5]))
redis.call('PEXPIRE', batches, 2 * ARGV[5])
redis.call('SADD', file .. ':users', id)
for _, key in ipairs({file .. ':users', file .. ':data'}) do
  if redis.call('PTTL', key) < tonumber(ARGV[5]) then redis.call('PEXPIRE', key, ARGV[5]) end
end
note_begun(KEYS[1], ARGV[7], id, ARGV[8])
wake_batch(id)
return 1
