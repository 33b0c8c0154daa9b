-- Take what is due: each chore's due time moves into the future, so that it is due again if whoever took it dies.
-- KEYS: chores   ARGV: how long one is taken for, ms; how many at most
-- Returns member, score, member, score, …  The score is the taker's token: chore.lua changes nothing under another one.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local token = string.format('%.0f', now + tonumber(ARGV[1]))
local taken = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])) do
  redis.call('ZADD', KEYS[1], token, member)
  taken[#taken + 1] = member
  taken[#taken + 1] = token
end
return taken
