-- include queue
-- Give a job up: at once when it still waits and has said nothing, else through its worker.
-- KEYS: cancel, job, lease, log, queue, arq job
-- ARGV: id, control channel, ttl s, terminal entry, api channel, batch that holds the terminal entry, outcome, '1' to leave a
-- job alone that has started
-- Returns -1 unknown, 2 already over, 1 ended here, 0 the worker was told (or, with ARGV[8], nothing was done).
if redis.call('EXISTS', KEYS[2]) == 0 then return -1 end
local id, queue, now = ARGV[1], KEYS[5], clock_ms()
local last = redis.call('LINDEX', KEYS[4], -1)
if last then
  local is_whole, entry = pcall(cmsgpack.unpack, last)
  if is_whole and type(entry) == 'table' and (entry[1] == 'd' or entry[1] == 'f') then return 2 end
end
-- A job whose lease ran out waits, too: nobody may be left to notice.
local is_waiting = not last and redis.call('EXISTS', KEYS[3]) == 0 and redis.call('ZSCORE', queue, id)
if not is_waiting and ARGV[8] == '1' then return 0 end
redis.call('SET', KEYS[1], '1', 'EX', ARGV[3])
if is_waiting then
  take_out(queue, id, now)
  redis.call('ZREM', queue .. ':leases', id)
  redis.call('DEL', KEYS[6])
  redis.call('RPUSH', KEYS[4], ARGV[4])
  redis.call('EXPIRE', KEYS[4], ARGV[3])
  redis.call('EXPIRE', KEYS[2], ARGV[3])
  end_job(queue, id, now, ARGV[7], 0)
  redis.call('PUBLISH', ARGV[5], ARGV[6])
  return 1
end
redis.call('PUBLISH', ARGV[2], id)
return 0
