-- include batch
-- Give a batch up.
-- KEYS: none   ARGV: id, now s
-- Returns its status then, '' if there is none. One that is not yet checked has no lines to answer for.
local batch = 'batch:' .. ARGV[1]
local status = redis.call('HGET', batch, 'status')
if status == 'validating' or status == 'in_progress' then
  if status == 'validating' then redis.call('HSET', batch, 'total', 0) end
  redis.call('HSET', batch, 'status', 'cancelling', 'ending', 'cancelled', 'cancelling_at', ARGV[2])
  wake_batch(ARGV[1])
  return 'cancelling'
end
return status or ''
