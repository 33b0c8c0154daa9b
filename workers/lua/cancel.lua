-- include queue
-- Give a job up: at once when it waits, else through its worker.
-- KEYS: cancel, job, lease, log, queue, arq job
-- ARGV: id, control channel, ttl s, terminal entry as event 0, api channel, schema version, outcome, whom to give up: '' whoever,
-- `waiting` who waits, `unstarted` who waits and has said nothing
-- Returns -1 unknown (whose enqueue, should it come later, is refused), 2 already over, 1 ended here, 0 the worker was told (or, with ARGV[8], nothing was done).
local id, queue, log, whom, now = ARGV[1], KEYS[5], KEYS[4], ARGV[8], clock_ms()
local LOOK_MS = 10000 -- whoever was told may be dead: then the job waits again, and the chore ends it

-- The number of the log's next event and the tag of its last one, fences left out; nil where an entry cannot be read.
local function end_of_log()
  for at = -1, -redis.call('LLEN', log), -1 do
    local packed = redis.call('LINDEX', log, at)
    if string.sub(packed, 2, 3) == '\161v' then -- Vectors: cmsgpack cannot read the bytes behind their numbers
      local _, tag, offset, _, num = cmsgpack.unpack_limit(string.sub(packed, 2), 4)
      return offset + num, tag
    end
    local is_whole, entry = pcall(cmsgpack.unpack, packed)
    if not is_whole or type(entry) ~= 'table' then return nil end
    if entry[1] == 't' then return entry[2] + #entry[3], 't' end
    if entry[1] ~= 'x' then return entry[2] + 1, entry[1] end
  end
  return 0
end

if redis.call('EXISTS', KEYS[2]) == 0 then
  -- A Redis that was frozen may hear of the cancel before it hears of the job, on another connection.
  if whom == '' then redis.call('SET', KEYS[1], '1', 'EX', ARGV[3]) end
  return -1
end
local offset, tag = end_of_log()
if tag == 'd' or tag == 'f' then return 2 end
local length = redis.call('LLEN', log)
-- A job whose lease ran out waits, too: nobody may be left to notice. What it has said stays, and the end follows.
local is_waiting = offset and redis.call('EXISTS', KEYS[3]) == 0 and redis.call('ZSCORE', queue, id)
if whom == 'unstarted' and length > 0 then is_waiting = false end
if not is_waiting and whom ~= '' then return 0 end
redis.call('SET', KEYS[1], '1', 'PX', whole(math.max(ARGV[3] * 1000, redis.call('PTTL', KEYS[2]))))
if not is_waiting then
  redis.call('ZADD', 'chores', 'LT', whole(now + LOOK_MS), 'wait:' .. id)
  redis.call('PUBLISH', ARGV[2], id)
  return 0
end
take_out(queue, id, now)
redis.call('ZREM', queue .. ':leases', id)
redis.call('DEL', KEYS[6])
local entry = string.sub(ARGV[4], 1, 3) .. cmsgpack.pack(offset) .. string.sub(ARGV[4], 5)
redis.call('RPUSH', log, entry)
redis.call('EXPIRE', log, ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
end_job(queue, id, now, ARGV[7], length == 0 and 0 or nil)
redis.call('PUBLISH', ARGV[5], cmsgpack.pack({tonumber(ARGV[6]), {{id, length, entry, tonumber(ARGV[3])}}}))
return 1
