-- include queue
-- Where a job stands.
-- KEYS: job, lease, log   ARGV: id
-- Returns {} if there is none, else {spec, last log entry or '', 1 if it runs, place among what waits in its class from 1 on
-- or 0, ms that it will wait or -1, queued ms, started ms, finished ms, attempts, crashes, outcome, 1 if it is a dead letter}
-- ('' for what is not there).
-- Whoever looks at a line of a batch may read its log next, so from now on what that says has to stand.
local record = redis.call('HMGET', KEYS[1], 'spec', 'queue', 'class', 'tenant', 'queued_ms', 'started_ms', 'finished_ms',
  'attempts', 'crashes', 'outcome')
if not record[1] then return {} end
local job = record[2] and facts(record[2], ARGV[1])
if job and job.is_line then redis.call('HSET', KEYS[1], 'is_seen', '1') end
local place, wait_ms = 0, -1
local class = record[3] or 'default'
if record[2] and not record[7] then
  local rank = redis.call('ZRANK', record[2] .. ':class:' .. class, ARGV[1])
  if rank then
    place = rank + 1
    local waits = redis.call('ZCARD', record[2] .. ':class:' .. class)
    local all_ms = expected_wait(record[2], class, record[4] or '', clock_ms())
    if all_ms then wait_ms = math.ceil(all_ms * place / waits) end
  end
end
return {record[1], redis.call('LINDEX', KEYS[3], -1) or '', redis.call('EXISTS', KEYS[2]), place, wait_ms,
  record[5] or '', record[6] or '', record[7] or '', record[8] or '0', record[9] or '0', record[10] or '',
  redis.call('ZSCORE', 'dead', ARGV[1]) and 1 or 0}
