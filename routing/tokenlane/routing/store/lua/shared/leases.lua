-- Determines which attempts have a lapsed lease, and describes these attempts to routers and clients.
-- uses ending

-- Records that a router or client looks at the pool, and returns the hold: the time before which no lease lapses. If nobody
-- has looked for more than 5 s (or for a lease, if that is shorter), the server may have been down. Then the hold becomes one
-- full lease from now, so that workers can renew their leases first. It is never later than that: the policy may have shortened
-- the lease meanwhile.
local function update_hold(now)
  local swept = P .. 'swept'
  local at, looked, hold = unpack(redis.call('HMGET', swept, 'at', 'looked', 'hold'))
  local last = math.max(tonumber(at or 0), tonumber(looked or 0))
  local lease = policy_rule('lease_ms')
  if not hold or now - last > math.min(5000, lease) or tonumber(hold) > now + lease then
    hold = decimal(now + lease)
    redis.call('HSET', swept, 'hold', hold)
  end
  redis.call('HSET', swept, 'looked', decimal(now))
  return tonumber(hold)
end

-- Whether a request has an attempt whose lease has lapsed. hold: as `update_hold` returned it; by default the latest. A lease
-- of 0 lapses even before the hold: `bury` sets it for a worker whose process has ended.
local function has_lapsed(id, request, hold)
  if request.state ~= 'dispatched' and request.state ~= 'running' then return false end
  local lease = tonumber(redis.call('ZSCORE', P .. 'leases', id) or math.huge)
  hold = hold or tonumber(redis.call('HGET', P .. 'swept', 'hold') or math.huge)
  return lease == 0 or math.max(lease, hold) <= now_ms()
end

-- Records that the lease of an attempt has lapsed. If a worker ran the attempt, the lapse counts as a crash, and the worker
-- gets no new work until its next beat. If no worker had started the attempt, the lane gets no new work until one of its
-- workers sends a beat.
local function record_lapse(id, request)
  if request.state == 'dispatched' then
    redis.call('DEL', P .. 'lane:' .. request.lane .. ':workers')
  else
    redis.call('ZREM', P .. 'lane:' .. request.lane .. ':workers', request.worker)
    redis.call('HINCRBY', P .. 'request:' .. id, 'crashes', 1)
  end
end

-- Ends a request whose lease has lapsed, if it was cancelled or its deadline has passed. Returns whether it ended.
local function ended_after_lapse(id, request)
  local ending = due_ending(request)
  if not ending then return false end
  record_lapse(id, request)
  end_early(id, request, ending)
  return true
end

-- A lapsed attempt, as decide/recovery.py needs it: {id, attempt, state, lane, queue, starts, earlier crashes, ran alone: 0 or
-- 1, ms to the deadline, server has the payload: 0 or 1}. nil if the request ends here. The lease stays in `leases`, so every
-- sweep reports the attempt again until a router or client has recovered the request.
local function lapsed_attempt(id, request)
  if ended_after_lapse(id, request) then return nil end
  return { id, tonumber(request.attempt), request.state, request.lane, request.queue, tonumber(request.starts),
    tonumber(request.crashes), request.alone and 1 or 0, tonumber(request.deadline) - now_ms(),
    request.entry ~= '' and 1 or 0 }
end
