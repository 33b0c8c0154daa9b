-- include isq
-- A worker's turn is over: it has the weights of a change, or it failed and kept those that it had, and the change is given up.
-- KEYS: isq, isq turn   ARGV: worker, model, change, what to note of the worker, error or ''
-- Returns 1, or 0 where the change is not the one that counts any more. Once is as good as twice.
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
local change, id, phase = unpack(redis.call('HMGET', KEYS[1], 'change', 'id', 'phase'))
if change ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], 'moved_ms', whole(clock_ms()))
redis.call('HSET', 're_isq:' .. id, 'worker:' .. ARGV[1], ARGV[4])
if ARGV[5] ~= '' and phase == 'rolling' then
  revert(KEYS[1], ARGV[2], 'Worker ' .. ARGV[1] .. ': ' .. ARGV[5])
else
  tell(ARGV[2], change)
end
return 1
