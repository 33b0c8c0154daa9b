-- Compare-and-append every entry of an engine step, then publish the batch to one API process.
-- KEYS: none (the logs are named in the batch)
-- ARGV: channel, batch {version, {{job, index, entry, ttl s}, …}}, optionally {job = entry before its first one}
-- Returns {receivers, {job, kind, length, …}}: kind is `dup` (our own entry is there already: a reply was lost),
-- `fenced` (another attempt owns the log) or `gap` (Redis lost the tail; `length` is what it still has).
-- After a fenced entry or a gap the job's later entries are left out: a fence moves the log by one, so the second
-- entry of a batch that is fenced would fit again. The entry before is compared because a length alone does not tell
-- whose log it is, once Redis has lost a tail and another attempt has written as many entries anew.
local batch = cmsgpack.unpack(ARGV[2])
local previous = ARGV[3] and cmsgpack.unpack(ARGV[3]) or {}
local good, bad, is_out = {}, {}, {}
for _, item in ipairs(batch[2]) do
  local job, index = item[1], item[2]
  if not is_out[job] then
    local key = 'log:' .. job
    local length = redis.call('RPUSH', key, item[3]) - 1
    local before = previous[job]
    previous[job] = nil
    if length == index and (not before or index > 0 and redis.call('LINDEX', key, index - 1) == before) then
      if item[4] > 0 then redis.call('EXPIRE', key, item[4]) end
      good[#good + 1] = item
    else
      redis.call('RPOP', key)
      local kind = 'gap'
      if length >= index then
        kind = redis.call('LINDEX', key, index) == item[3] and 'dup' or 'fenced'
      end
      is_out[job] = kind ~= 'dup'
      bad[#bad + 1] = job
      bad[#bad + 1] = kind
      bad[#bad + 1] = length
    end
  end
end
local receivers = -1
if #bad == 0 then
  receivers = redis.call('PUBLISH', ARGV[1], ARGV[2])
elseif #good > 0 then
  receivers = redis.call('PUBLISH', ARGV[1], cmsgpack.pack({batch[1], good}))
end
return {receivers, bad}
