-- Determines which attempts have a lapsed lease, and what is reported about them.
-- uses ending

-- Returns the time before which no lease lapses. If for more than 5 s (or a lease, if that is shorter) neither a router nor a
-- client has looked at the pool, the server may have been down. Then no lease lapses for another full lease, so that workers
-- can renew first.
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

-- Whether a request has an attempt whose lease has lapsed. hold: the time before which no lease lapses, as `look` returns it.
-- `bury` sets the lease of a dead worker's attempt to 0.
local function has_lapsed(id, request, hold)
  if request.state ~= 'dispatched' and request.state ~= 'running' then return false end
  local lease = tonumber(redis.call('ZSCORE', P .. 'leases', id) or math.huge)
  hold = hold or tonumber(redis.call('HGET', P .. 'swept', 'hold') or math.huge)
  return lease == 0 or math.max(lease, hold) <= now_ms()
end

-- Notes that the lease of an attempt has lapsed. The worker that ran the attempt gets no new work until its next beat, and the
-- lapse counts as a crash. If no worker had started the attempt, the whole lane gets no new work until a beat.
local function note_lapse(id, request)
  if request.state == 'dispatched' then
    redis.call('DEL', P .. 'lane:' .. request.lane .. ':workers')
  else
    redis.call('ZREM', P .. 'lane:' .. request.lane .. ':workers', request.worker)
    redis.call('HINCRBY', P .. 'request:' .. id, 'crashes', 1)
  end
end

-- If a request whose lease has lapsed was cancelled or has passed its deadline, ends it. Returns whether it did.
local function ended_after_lapse(id, request)
  local ending = due_ending(request)
  if not ending then return false end
  note_lapse(id, request)
  end_as(id, request, ending)
  return true
end

-- A lapsed attempt, for decide/recovery.py: {id, attempt, state, lane, queue, starts, earlier crashes, it ran alone: 0 or 1,
-- ms to its deadline, the server has its payload: 0 or 1}. nil if the request has ended here. The lease stays, and so the
-- attempt is reported again, until a router or client has recovered the request.
local function lapsed_attempt(id, request)
  if ended_after_lapse(id, request) then return nil end
  return { id, tonumber(request.attempt), request.state, request.lane, request.queue, tonumber(request.starts),
    tonumber(request.crashes), request.alone and 1 or 0, tonumber(request.deadline) - now_ms(),
    request.entry ~= '' and 1 or 0 }
end
