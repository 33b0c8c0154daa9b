-- Compare-and-append every entry of an engine step, then publish the batch to one API process.
-- KEYS: none (the logs are named in the batch)   ARGV: channel, batch {version, {{job, index, entry, ttl s}, …}}
-- Returns {receivers, {job, kind, length, …}}: kind is `dup` (our own entry is there already: a reply was lost),
-- `fenced` (another attempt owns the log) or `gap` (Redis lost the tail; `length` is what it still has).
local batch = cmsgpack.unpack(ARGV[2])
local good, bad = {}, {}
for _, item in ipairs(batch[2]) do
  local key, index = 'log:' .. item[1], item[2]
  local length = redis.call('RPUSH', key, item[3]) - 1
  if length == index then
    if item[4] > 0 then redis.call('EXPIRE', key, item[4]) end
    good[#good + 1] = item
  else
    redis.call('RPOP', key)
    local kind = 'gap'
    if length > index then
      kind = redis.call('LINDEX', key, index) == item[3] and 'dup' or 'fenced'
    end
    bad[#bad + 1] = item[1]
    bad[#bad + 1] = kind
    bad[#bad + 1] = length
  end
end
local receivers = -1
if #bad == 0 then
  receivers = redis.call('PUBLISH', ARGV[1], ARGV[2])
elseif #good > 0 then
  receivers = redis.call('PUBLISH', ARGV[1], cmsgpack.pack({batch[1], good}))
end
return {receivers, bad}
