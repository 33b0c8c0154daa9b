-- include idempotency
-- What an Idempotency-Key began before.
-- KEYS: idempotency record   ARGV: digest of the body, '' if it is not known yet: then any body is the same
-- Returns {id, 1 if the body was the same}, or {} if the key is free.
local record = redis.call('HGET', KEYS[1], 'digest')
if not record then return {} end
local id, is_same = begun(KEYS[1], ARGV[1] == '' and record or ARGV[1])
return id and {id, is_same and 1 or 0} or {}
