-- include isq
-- Ask for other weights of a model.
-- KEYS: isq, change   ARGV: id, model, type, how long a change is remembered, s; how long what it asks for outlives the workers, ms
-- Returns {'begun', id}; {'joined', id} where the same is under way; {'busy', id, type} where another is; {'nobody'} without a worker;
-- {'unable', worker} where one is of a version that has no re_isq.
local key, id, model, type = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
settle(key, model, ARGV[4])
local phase, under_way = unpack(redis.call('HMGET', key, 'phase', 'id'))
if phase == 'rolling' or phase == 'reverting' then
  local other = redis.call('HGET', 're_isq:' .. under_way, 'type')
  if phase == 'rolling' and other == type then return {'joined', under_way} end
  return {'busy', under_way, other}
end
local workers = workers_of(model)
if #workers == 0 then return {'nobody'} end
for _, worker in ipairs(workers) do
  if not worker.isq_change then return {'unable', worker.worker} end
end
local now = whole(clock_ms())
local former = redis.call('HGET', key, 'type') or ''
redis.call('HSET', key, 'change', id, 'id', id, 'type', type, 'former', former, 'phase', 'rolling', 'moved_ms', now)
redis.call('PEXPIRE', key, ARGV[5])
redis.call('HSET', KEYS[2], 'model', model, 'type', type, 'state', 'in_progress', 'created_ms', now)
redis.call('EXPIRE', KEYS[2], 86400)
tell(model, id)
return {'begun', id}
