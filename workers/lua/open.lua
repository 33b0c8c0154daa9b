-- Begin an attempt: fence off the one before, then read what it left.
-- KEYS: lease, job, log, cancel   ARGV: owner, fence entry, attempt, log ttl s
-- Returns {0} when the lease is not ours, else {1, spec or '', 1 if cancelled, entries of the log…} (the new fence last).
-- A later attempt fences an empty log too: the first one may be paused just before it writes entry 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0} end
local entries = redis.call('LRANGE', KEYS[3], 0, -1)
local is_over = false
if #entries > 0 then
  -- A damaged entry is no end; the worker will say what it is.
  local is_whole, last = pcall(cmsgpack.unpack, entries[#entries])
  is_over = is_whole and type(last) == 'table' and (last[1] == 'd' or last[1] == 'f')
end
if not is_over and (#entries > 0 or tonumber(ARGV[3]) > 1) then
  redis.call('RPUSH', KEYS[3], ARGV[2])
  if #entries == 0 then redis.call('EXPIRE', KEYS[3], ARGV[4]) end
  entries[#entries + 1] = ARGV[2]
end
local reply = {1, redis.call('HGET', KEYS[2], 'spec') or '', redis.call('EXISTS', KEYS[4])}
for i = 1, #entries do reply[3 + i] = entries[i] end
return reply
