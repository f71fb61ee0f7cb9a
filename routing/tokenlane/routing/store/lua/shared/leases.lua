-- When the lease of an attempt has lapsed, and what is reported of such an attempt.
-- uses ending

-- Until when no lease lapses. After more than 5 s (or a lease, if that is shorter) in which neither a router nor a client
-- has looked at the pool, that is a full lease away: the server may have been down, and workers must renew first.
local function look(now)
  local swept = P .. 'swept'
  local at, looked, hold = unpack(redis.call('HMGET', swept, 'at', 'looked', 'hold'))
  local last = math.max(tonumber(at or 0), tonumber(looked or 0))
  if not hold or now - last > math.min(5000, rule('lease_ms')) then
    hold = int(now + rule('lease_ms'))
    redis.call('HSET', swept, 'hold', hold)
  end
  redis.call('HSET', swept, 'looked', int(now))
  return tonumber(hold)
end

-- Whether a request has an attempt whose lease has lapsed. hold: until when no lease lapses, as `look` returns it. `bury`
-- sets the lease of a dead worker's attempt to 0.
local function has_lapsed(id, request, hold)
  if request.state ~= 'dispatched' and request.state ~= 'running' then return false end
  local lease = tonumber(redis.call('ZSCORE', P .. 'leases', id) or math.huge)
  hold = hold or tonumber(redis.call('HGET', P .. 'swept', 'hold') or math.huge)
  return lease == 0 or math.max(lease, hold) <= now_ms()
end

-- Takes new work away, until the next beat, from the worker that ran the attempt, or from the whole lane if none of its
-- workers started it. Counts a worker's death.
local function note_lapse(id, request)
  if request.state == 'dispatched' then
    redis.call('DEL', P .. 'lane:' .. request.lane .. ':workers')
  else
    redis.call('ZREM', P .. 'lane:' .. request.lane .. ':workers', request.worker)
    redis.call('HINCRBY', P .. 'request:' .. id, 'crashes', 1)
  end
end

-- Ends a request whose lease has lapsed if it must end anyway. Whether it did.
local function ended_after_lapse(id, request)
  local ending = due_ending(request)
  if not ending then return false end
  note_lapse(id, request)
  end_as(id, request, ending)
  return true
end

-- A lapsed attempt: {id, attempt, state, lane, queue, starts, crashes before, it ran alone: 0 or 1, ms to its deadline, the
-- server has its payload: 0 or 1}, from which decide/recovery.py decides what becomes of the request. The lease stays until
-- a router or client has carried that out, and is reported again. nil if nothing is left to decide.
local function lapsed_attempt(id, request)
  if ended_after_lapse(id, request) then return nil end
  return { id, tonumber(request.attempt), request.state, request.lane, request.queue, tonumber(request.starts),
    tonumber(request.crashes), request.alone and 1 or 0, tonumber(request.deadline) - now_ms(),
    request.entry ~= '' and 1 or 0 }
end
