-- include batch
-- Note how a line ended, once.
-- KEYS: job, log
-- ARGV: batch, line, output line, `completed` or `failed`, prompt tokens, cached ones, completion tokens, how many lines may run
-- at a time, how long the job is kept now, ms (0: as it is)
-- Returns 1, or 0 when it was noted before. The batch goes on when half of its lines have ended, and when all have.
local id, batch = ARGV[1], 'batch:' .. ARGV[1]
if redis.call('HDEL', batch .. ':open', ARGV[2]) == 0 then return 0 end
add_line(id, ARGV[4] == 'completed' and 'output' or 'errors', ARGV[3])
redis.call('HINCRBY', batch, ARGV[4], 1)
redis.call('HINCRBY', batch, 'prompt_tokens', ARGV[5])
redis.call('HINCRBY', batch, 'cached_tokens', ARGV[6])
redis.call('HINCRBY', batch, 'completion_tokens', ARGV[7])
if ARGV[9] ~= '0' then
  redis.call('PEXPIRE', KEYS[1], ARGV[9])
  redis.call('PEXPIRE', KEYS[2], ARGV[9])
end
local num_open = redis.call('HLEN', batch .. ':open')
if num_open == 0 or num_open == math.floor(ARGV[8] / 2) then wake_batch(id) end
return 1
