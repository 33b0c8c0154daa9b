-- Begin an attempt: fence off the one before, then read what it left.
-- KEYS: lease, job, log, cancel   ARGV: owner, fence entry
-- Returns {0} when the lease is not ours, else {1, spec or '', 1 if cancelled, entries of the log…} (the new fence last).
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0} end
local entries = redis.call('LRANGE', KEYS[3], 0, -1)
if #entries > 0 then
  local last = cmsgpack.unpack(entries[#entries])
  if last[1] ~= 'd' and last[1] ~= 'f' then
    redis.call('RPUSH', KEYS[3], ARGV[2])
    entries[#entries + 1] = ARGV[2]
  end
end
local reply = {1, redis.call('HGET', KEYS[2], 'spec') or '', redis.call('EXISTS', KEYS[4])}
for i = 1, #entries do reply[3 + i] = entries[i] end
return reply
