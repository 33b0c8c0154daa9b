-- Add a piece to a file that is being uploaded; once, however often it is sent.
-- KEYS: data   ARGV: number of the piece, piece, how long it lives without another one, ms
-- Returns 1, or 0 when the pieces before it are gone.
local length, number = redis.call('LLEN', KEYS[1]), tonumber(ARGV[1])
if length == number then
  redis.call('RPUSH', KEYS[1], ARGV[2])
elseif length ~= number + 1 then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
