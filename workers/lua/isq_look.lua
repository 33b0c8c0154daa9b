-- include isq
-- How a change stands.
-- KEYS: isq, change   ARGV: model, how long an ended one is remembered, s
-- Returns {} if there is none, else {1 if a worker serves the model, field, value, field, value, …} of the change.
settle(KEYS[1], ARGV[1], ARGV[2])
local fields = redis.call('HGETALL', KEYS[2])
if #fields == 0 then return {} end
table.insert(fields, 1, #workers_of(ARGV[1]) > 0 and 1 or 0)
return fields
