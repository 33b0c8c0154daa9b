-- Give a job up: at once when it still waits, else through its worker.
-- KEYS: cancel, job, lease, log, queue, arq job
-- ARGV: id, control channel, ttl s, terminal entry, api channel, batch that holds the terminal entry
-- Returns -1 unknown, 2 already over, 1 ended here, 0 the worker was told.
if redis.call('EXISTS', KEYS[2]) == 0 then return -1 end
local last = redis.call('LINDEX', KEYS[4], -1)
if last then
  local is_whole, entry = pcall(cmsgpack.unpack, last)
  if is_whole and type(entry) == 'table' and (entry[1] == 'd' or entry[1] == 'f') then return 2 end
end
redis.call('SET', KEYS[1], '1', 'EX', ARGV[3])
if not last and redis.call('EXISTS', KEYS[3]) == 0 and redis.call('ZREM', KEYS[5], ARGV[1]) == 1 then
  redis.call('DEL', KEYS[6])
  redis.call('RPUSH', KEYS[4], ARGV[4])
  redis.call('EXPIRE', KEYS[4], ARGV[3])
  redis.call('PUBLISH', ARGV[5], ARGV[6])
  return 1
end
redis.call('PUBLISH', ARGV[2], ARGV[1])
return 0
