-- include isq
-- Which weights a worker is to have, and whether it is its turn to load them: one worker of a model at a time. Asked again while it loads,
-- it is still its turn.
-- KEYS: isq, isq turn   ARGV: worker, the change that it has, how long the turn is its own, ms
-- Returns {} if it has what it is to have, {'wait'} or {'go', change, type, phase}.
local change, type, phase = unpack(redis.call('HMGET', KEYS[1], 'change', 'type', 'phase'))
if not change or change == ARGV[2] then return {} end
local owner = redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[1] then return {'wait'} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
redis.call('HSET', KEYS[1], 'moved_ms', whole(clock_ms()))
return {'go', change, type or '', phase}
