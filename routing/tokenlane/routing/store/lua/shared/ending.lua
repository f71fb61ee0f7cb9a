-- Ends requests, and removes them from all queues and sets.
-- uses arq_jobs, agent_fairness, rates

-- Removes a request that waits from its queue, or an attempt from its lane. If the request ran alone, the lane accepts other
-- requests again. The first write deletes, so this works when memory is full.
local function remove_from_queues(id, request)
  redis.call('ZREM', P .. 'leases', id)
  redis.call('ZREM', P .. 'delayed', id)
  if request.state == 'waiting' then dequeue(id, request.queue, request.agent) end
  if request.state == 'dispatched' or request.state == 'running' then
    drop_job(lane_queue(request.lane, request.kind), job_of(id, request.attempt))
    if request.alone then redis.call('DEL', P .. 'lane:' .. request.lane .. ':alone') end
  end
end

-- Removes a request from the sets of all that live.
local function remove_from_sets(id, request)
  redis.call('ZREM', P .. 'deadlines', id)
  redis.call('SREM', P .. 'client:' .. request.client, id)
  redis.call('SREM', P .. 'agent:' .. request.agent, id)
  if request.quota then redis.call('SREM', P .. 'agent:' .. request.quota .. ':quota', id) end
end

-- Ends a request. ending: completed, failed, cancelled or expired; message: the last message to the agent, JSON; code: the
-- error's code, or nil; lane: the lane that failed, or nil for the request's lane. Returns how many clients received the message.
local function end_request(id, request, ending, message, code, lane)
  local now = now_ms()
  remove_from_queues(id, request)
  remove_from_sets(id, request)
  local stream = P .. 'role:' .. request.role
  if request.entry ~= '' then redis.call('XDEL', stream, request.entry) end
  if redis.call('XLEN', stream) == 0 then redis.call('DEL', stream) end
  redis.call('HDEL', P .. 'request:' .. id, 'token', 'charge', 'alone', 'cancel')
  redis.call('HSET', P .. 'request:' .. id, 'state', ending, 'ended', decimal(now), 'code', code or '')
  redis.call('EXPIRE', P .. 'request:' .. id, KEEP_ENDED_S)
  if request.once then redis.call('EXPIRE', P .. 'idem:' .. request.once, KEEP_ENDED_S) end
  if request.state == 'running' then record_drain(request.role, tonumber(request.started), now) end
  count_event(request, ending, now)
  if ending == 'failed' then
    local entry = redis.call('XADD', P .. 'failed', 'MAXLEN', '~', 1000, '*',
      'id', id, 'role', request.role, 'lane', lane or request.lane or '', 'code', code or '',
      'priority', priority_of(request.queue), 'kind', request.kind or '')
    redis.call('HSET', P .. 'request:' .. id, 'failure', entry)
  end
  local receivers = publish_to_agent(id, message)
  if redis.call('EXISTS', P .. 'queues') == 1 then ring_routers() end
  return receivers
end

-- Ends a request as cancelled or expired, and publishes that to its agent: with the request's code if it has one, and if it is
-- expired, with the code that says why its last attempt ended.
local function end_early(id, request, ending)
  local code = request.code or ''
  local why = ending == 'expired' and code == '' and last_ended_by(request) or code
  local cause = why ~= '' and ',"code":"' .. why .. '"' or ''
  end_request(id, request, ending, '{"v":1,"type":"' .. ending .. '","attempt":' .. request.attempt .. cause .. '}', code)
end

-- How the request must end now: 'cancelled' or 'expired' if it was cancelled or its deadline has passed, nil otherwise.
local function due_ending(request)
  return request.cancel or (tonumber(request.deadline) <= now_ms() and 'expired') or nil
end

-- Cancels a request. If it runs, the script only sets a flag and notifies the worker, which ends the request once the model
-- server's stream is closed. reason: cancelled or expired; code: 'orphaned' if the client has vanished, 'purged' if an
-- operator purged the role, nil otherwise.
-- Returns the reason if the request ends now or had already ended for this reason; 'flagged' if it runs; 'ended' if it had
-- ended for another reason; 'unknown' if the server does not know it.
local function cancel_request(id, reason, code)
  local request = read_request(id)
  if not request then return 'unknown' end
  if request.state == 'running' then
    if not request.cancel then redis.call('HSET', P .. 'request:' .. id, 'cancel', reason, 'code', code or '') end
    redis.call('PUBLISH', CHANNEL .. 'control:' .. request.worker, '{"v":1,"type":"cancel","id":"' .. id
      .. '","attempt":' .. request.attempt .. ',"reason":"' .. (request.cancel or reason) .. '"}')
    return 'flagged'
  end
  if not ALIVE[request.state] then return request.state == reason and reason or 'ended' end
  request.code = code
  end_early(id, request, reason)
  return reason
end
