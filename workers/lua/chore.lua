-- Change one chore. All but `put` need it to be ours still: a chore that somebody put in again meanwhile stays as they left it.
-- KEYS: chores, failures   ARGV: what to do, member, our score, ms, longest ms, channel
--   put: due in ms, or earlier if it was to be due earlier       done: it is no more
--   renew, again: due in ms, while it goes on, or for another go   failed: due in ms times two per failure before, at most the longest
-- Returns its score now, '0' where it is not ours or is no more.
local what, member = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ms = tonumber(ARGV[4])

if what == 'put' then
  redis.call('ZADD', KEYS[1], 'LT', string.format('%.0f', now + ms), member)
  if ms <= 0 then redis.call('PUBLISH', ARGV[6], '1') end
  return redis.call('ZSCORE', KEYS[1], member)
end

local score = redis.call('ZSCORE', KEYS[1], member)
if not score or tonumber(score) ~= tonumber(ARGV[3]) then return '0' end
if what == 'failed' then
  local before = redis.call('HINCRBY', KEYS[2], member, 1) - 1
  ms = math.min(ms * 2 ^ math.min(before, 30), tonumber(ARGV[5]))
elseif what ~= 'renew' then
  redis.call('HDEL', KEYS[2], member)
end
if what == 'done' then
  redis.call('ZREM', KEYS[1], member)
  return '0'
end
local due = string.format('%.0f', now + ms)
redis.call('ZADD', KEYS[1], due, member)
return due
