-- Ends requests, and removes them from the queues and sets that hold them.
-- uses arq_jobs, agent_fairness, rates

-- Removes a request from its queue or lane. After a suspect, the lane is open to other requests again. The first write
-- deletes, so that scripts may begin with this when memory is full.
local function remove(id, request)
  redis.call('ZREM', P .. 'leases', id)
  redis.call('ZREM', P .. 'delayed', id)
  if request.state == 'waiting' then dequeue(id, request.queue, request.agent) end
  if request.state == 'dispatched' or request.state == 'running' then
    drop_job(lane_queue(request.lane, request.kind), job_of(id, request.attempt))
    if request.alone then redis.call('DEL', P .. 'lane:' .. request.lane .. ':alone') end
  end
end

-- Ends a request. ending: completed, failed, cancelled or expired; message: for the agent, JSON.
-- lane: the lane that failed; nil: the request's.
local function end_with(id, request, ending, message, code, lane)
  local now = now_ms()
  remove(id, request)
  redis.call('ZREM', P .. 'deadlines', id)
  redis.call('SREM', P .. 'client:' .. request.client, id)
  redis.call('SREM', P .. 'agent:' .. request.agent, id)
  local stream = P .. 'role:' .. request.role
  if request.entry ~= '' then redis.call('XDEL', stream, request.entry) end
  local idle = redis.call('XLEN', stream) == 0
  if idle then redis.call('DEL', stream) end
  redis.call('HDEL', P .. 'request:' .. id, 'token', 'charge', 'alone', 'cancel')
  redis.call('HSET', P .. 'request:' .. id, 'state', ending, 'ended', int(now), 'code', code or '')
  redis.call('EXPIRE', P .. 'request:' .. id, KEEP_ENDED_S)
  if request.once then redis.call('EXPIRE', P .. 'idem:' .. request.once, KEEP_ENDED_S) end
  note_drain(request.role, now, idle)
  count(request, ending, now)
  if ending == 'failed' then
    redis.call('XADD', P .. 'failed', 'MAXLEN', '~', 1000, '*',
      'id', id, 'role', request.role, 'lane', lane or request.lane or '', 'code', code or '')
  end
  tell_agent(id, message)
  if redis.call('EXISTS', P .. 'queues') == 1 then ring() end
end

-- Ends a request as cancelled or expired, and notifies the agent, with the cause if `cancel_one` was given one.
local function end_as(id, request, ending)
  local code = request.code or ''
  local cause = code ~= '' and ',"code":"' .. code .. '"' or ''
  end_with(id, request, ending, '{"v":1,"type":"' .. ending .. '","attempt":' .. request.attempt .. cause .. '}', code)
end

-- 'cancelled' or 'expired' if the request was cancelled or its deadline has passed, so that it must end; nil otherwise.
local function due_ending(request)
  return request.cancel or (tonumber(request.deadline) <= now_ms() and 'expired') or nil
end

-- Cancels a request. reason: cancelled or expired; code: 'orphaned' if its client has vanished, else nil. Returns the reason if the request ends now or has ended for that reason;
-- 'flagged' if the request runs and its worker was notified; 'ended' if it has ended for another reason; or 'unknown'.
local function cancel_one(id, reason, code)
  local request = read(id)
  if not request then return 'unknown' end
  if request.state == 'running' then
    if not request.cancel then redis.call('HSET', P .. 'request:' .. id, 'cancel', reason, 'code', code or '') end
    redis.call('PUBLISH', CHANNEL .. 'control:' .. request.worker, '{"v":1,"type":"cancel","id":"' .. id
      .. '","attempt":' .. request.attempt .. ',"reason":"' .. (request.cancel or reason) .. '"}')
    return 'flagged'
  end
  if not ALIVE[request.state] then return request.state == reason and reason or 'ended' end
  request.code = code
  end_as(id, request, reason)
  return reason
end
