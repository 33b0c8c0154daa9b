-- include batch
-- End a batch: its lines become files, and its input is released.
-- KEYS: none
-- ARGV: id, status it has, status it gets, now s, tenant, how long it is kept, ms, input file, errors of its check or '', then
-- for each file: list, field that gets its id, id, record, bytes, ttl ms
-- Returns 1, or 0 when it has ended already.
local id, batch = ARGV[1], 'batch:' .. ARGV[1]
if redis.call('HGET', batch, 'status') ~= ARGV[2] then return 0 end
for i = 9, #ARGV, 6 do
  local list = batch .. ':' .. ARGV[i]
  if redis.call('EXISTS', list) == 1 then
    redis.call('RENAME', list, 'file:' .. ARGV[i + 2] .. ':data')
    keep_file(ARGV[i + 2], ARGV[i + 3], ARGV[5], ARGV[4] .. '000', ARGV[i + 4], ARGV[i + 5])
    redis.call('HSET', batch, ARGV[i + 1], ARGV[i + 2])
  end
end
redis.call('HSET', batch, 'status', ARGV[3], ARGV[3] .. '_at', ARGV[4])
if ARGV[8] ~= '' then redis.call('HSET', batch, 'errors', ARGV[8]) end
redis.call('PEXPIRE', batch, ARGV[6])
redis.call('UNLINK', batch .. ':ids', batch .. ':open')
redis.call('SREM', 'file:' .. ARGV[7] .. ':users', id)
drop_unused(ARGV[7])
return 1
