-- include queue
-- Begin an attempt: fence off the one before, then read what it left.
-- KEYS: lease, job, log, cancel   ARGV: owner, fence entry, attempt, log ttl s, our engine's fingerprint
-- Returns {0} when the lease is not ours, else {1, spec or '', 1 if cancelled, ms to the deadline or '', the fingerprint of the
-- engine that made the tokens in the log, entries of the log…} (the new fence last).
-- A later attempt fences an empty log too: the first one may be paused just before it writes entry 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0} end
local entries = redis.call('LRANGE', KEYS[3], 0, -1)
local is_over = false
if #entries > 0 then
  -- A damaged entry is no end; the worker will say what it is.
  local is_whole, last = pcall(cmsgpack.unpack, entries[#entries])
  is_over = is_whole and type(last) == 'table' and (last[1] == 'd' or last[1] == 'f')
end
local has_tokens = false
for _, entry in ipairs(entries) do
  local tag = string.sub(entry, 2, 3)
  if tag == '\161t' or tag == '\161v' then -- Tokens, or Vectors
    has_tokens = true
    break
  end
end
-- Other weights cannot go on with an answer. One that nobody has been shown, a line's that nobody looked at, begins anew; the
-- fence, which is then entry 0, silences whoever still writes the old one.
local function may_begin_anew()
  local record = redis.call('HMGET', KEYS[2], 'fingerprint', 'is_seen', 'queue')
  if not record[1] or record[1] == ARGV[5] or record[2] or not record[3] then return false end
  local job = facts(record[3], string.sub(KEYS[2], 5)) -- behind `job:`
  return job and job.is_line
end
local is_fenced = not is_over and (#entries > 0 or tonumber(ARGV[3]) > 1)
if has_tokens and not is_over and may_begin_anew() then
  redis.call('DEL', KEYS[3])
  entries, has_tokens = {}, false
end
if is_fenced then
  redis.call('RPUSH', KEYS[3], ARGV[2])
  redis.call('EXPIRE', KEYS[3], ARGV[4]) -- its record lives on with each attempt, too
  entries[#entries + 1] = ARGV[2]
end
local maker, left_ms = ARGV[5], ''
if redis.call('EXISTS', KEYS[2]) == 1 then
  local now = clock_ms()
  redis.call('HSETNX', KEYS[2], 'started_ms', whole(now))
  if has_tokens then maker = redis.call('HGET', KEYS[2], 'fingerprint') or maker end
  redis.call('HSET', KEYS[2], 'fingerprint', maker)
  local deadline = redis.call('HGET', KEYS[2], 'deadline_ms')
  if deadline then left_ms = whole(deadline - now) end
end
local reply = {1, redis.call('HGET', KEYS[2], 'spec') or '', redis.call('EXISTS', KEYS[4]), left_ms, maker}
for i = 1, #entries do reply[5 + i] = entries[i] end
return reply
