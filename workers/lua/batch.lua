-- include file
-- What several scripts share: how a batch is woken, and lists that live as long as it does.
-- A batch B of tenant T is: batch:B (HASH: its record, status, place in the file and counts), batch:B:ids (HASH: custom id ->
-- line, while it is checked), batch:B:open (HASH: line -> what it is, for lines whose jobs have not ended), batch:B:output and
-- batch:B:errors (LISTs: lines of the files to be), batches:T (ZSET: ids by creation, ms).
local function wake_batch(id)
  local time = redis.call('TIME')
  redis.call('ZADD', 'chores', 'LT', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), 'batch:' .. id)
  redis.call('PUBLISH', 'chores', '1')
end

local function outlive(key, id)
  redis.call('PEXPIRE', key, redis.call('PTTL', 'batch:' .. id))
end

local function add_line(id, list, line)
  local key = 'batch:' .. id .. ':' .. list
  redis.call('RPUSH', key, line)
  redis.call('HINCRBY', 'batch:' .. id, list .. '_bytes', #line)
  outlive(key, id)
end
