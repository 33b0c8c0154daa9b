-- What the scripts of re_isq share: a change of a model's type of weights, from its beginning to its end.
-- isq:{model}  HASH  change: what the workers are to have (an id, or id/back); type: in which type ('' or none: in the worker's own);
--   former: the type before; id: the change's; phase: rolling, reverting, settled; moved_ms: when a worker last took a part of it
-- turn:isq:{model}  STRING with expiry: the worker that loads now
-- re_isq:{id}  HASH  model, type, state (in_progress, completed, failed), created_ms, ended_ms, error, worker:{id} (what became of each)

-- A turn that nobody takes for so long, although somebody has to: that worker cannot.
local STUCK_MS = 30000

local function clock_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function whole(number) return string.format('%.0f', number) end

-- The workers that serve a model and are to stay: a list of their heartbeats.
local function workers_of(model)
  local found = {}
  for _, id in ipairs(redis.call('ZRANGE', 'workers', 0, -1)) do
    local beat = redis.call('GET', 'worker:' .. id)
    local is_whole, worker = pcall(cmsgpack.unpack, beat or '')
    if beat and is_whole and worker.model == model and not worker.is_draining then found[#found + 1] = worker end
  end
  return found
end

local function tell(model, change)
  redis.call('PUBLISH', 'isq:q:' .. model, change)
end

-- Give a change up: who has the new weights takes the former ones again.
local function revert(key, model, error)
  local former, id = unpack(redis.call('HMGET', key, 'former', 'id'))
  redis.call('HSET', key, 'phase', 'reverting', 'change', id .. '/back', 'type', former or '', 'moved_ms', whole(clock_ms()))
  redis.call('HSET', 're_isq:' .. id, 'error', error)
  tell(model, id .. '/back')
end

-- Add a sentence to a change's error.
local function say(id, what)
  redis.call('HSET', 're_isq:' .. id, 'error', redis.call('HGET', 're_isq:' .. id, 'error') .. ' ' .. what)
end

local function close(key, state, ttl_s)
  local id = redis.call('HGET', key, 'id')
  redis.call('HSET', key, 'phase', 'settled')
  redis.call('HSET', 're_isq:' .. id, 'state', state, 'ended_ms', whole(clock_ms()))
  redis.call('EXPIRE', 're_isq:' .. id, ttl_s)
end

-- Go on with a change if what its workers say of themselves allows it. Without workers it waits for those to come.
local function settle(key, model, ttl_s)
  local change, id, phase, moved_ms = unpack(redis.call('HMGET', key, 'change', 'id', 'phase', 'moved_ms'))
  if phase ~= 'rolling' and phase ~= 'reverting' then return end
  local workers, late = workers_of(model), nil
  for _, worker in ipairs(workers) do
    if worker.isq_change ~= change then late = worker.worker end
  end
  if #workers == 0 then return end
  if not late and phase == 'rolling' then
    close(key, 'completed', ttl_s)
  elseif not late then
    say(id, 'Every worker has the weights that it had before.')
    close(key, 'failed', ttl_s)
  elseif redis.call('EXISTS', 'turn:' .. key) == 0 and clock_ms() - moved_ms > STUCK_MS then
    local what = 'Worker ' .. late .. ' did not take it up within ' .. STUCK_MS / 1000 .. ' s.'
    if phase == 'rolling' then
      revert(key, model, what)
    else
      say(id, what .. ' It may have the new weights still: restart it.')
      close(key, 'failed', ttl_s)
    end
  end
end
