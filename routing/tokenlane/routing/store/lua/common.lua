-- What several scripts share, after base.lua and gates.lua.

-- Until when no lease lapses: for a full one after nobody, neither a router nor a client, has looked for more than 5 s,
-- or for a lease if that is shorter. The server may have been away, and workers renew first.
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

-- How a request stands, as clients are told. owner: whose leaving cancels it; '' where the server had forgotten it and
-- knows from its worker only who sent it.
local function standing(request)
  if not request then return { 'missing', 0, '', '', '', '' } end
  return { request.state, tonumber(request.attempt), request.worker or '', request['end'] or '', request.code or '',
    request.entry ~= '' and request.client or '' }
end

local function ring()
  redis.call('PUBLISH', CHANNEL .. 'doorbell', '')
end

local function tell_agent(id, message)
  redis.call('PUBLISH', CHANNEL .. 'deltas:' .. id, message)
end

local function tell_worker(id, request, reason)
  redis.call('PUBLISH', CHANNEL .. 'control:' .. request.worker,
    '{"v":1,"type":"cancel","id":"' .. id .. '","attempt":' .. request.attempt .. ',"reason":"' .. reason .. '"}')
end

-- An agent's place in its queue: its finish tag, or the queue's clock if that is later.
local function tag(queue, agent)
  local clock = tonumber(redis.call('HGET', queue .. ':clock', 'clock') or 0)
  local paid = tonumber(redis.call('ZSCORE', queue .. ':paid', agent) or 0)
  return math.max(clock, paid)
end

-- The turn that the queues of a role, kind and priority have together.
local function turn_of(queue_name)
  return P .. 'turn:' .. string.match(queue_name, '^[^:]*:[^:]*:[^:]*')
end

-- A role of which nothing waited comes after those that wait already. A queue that was empty has the place its request came
-- to the pool with: a new one is the last, one that waits again in a queue of its own stands before those after it. An
-- agent that waits already keeps its place.
local function enqueue(id, request)
  local queue, turn = P .. 'queue:' .. request.queue, turn_of(request.queue)
  if redis.call('SADD', P .. 'queues', request.queue) == 1 then
    redis.call('HSET', queue .. ':clock', 'served', request.seq)
    if redis.call('HINCRBY', turn, 'queues', 1) == 1 then
      redis.call('HSET', turn, 'served', redis.call('GET', P .. 'sequence') or 0)
    end
  end
  redis.call('ZADD', queue .. ':agent:' .. request.agent, request.seq, id)
  redis.call('ZADD', queue .. ':agents', 'LT', tag(queue, request.agent), request.agent)
end

local function dequeue(id, queue_name, agent)
  local queue = P .. 'queue:' .. queue_name
  local mine = queue .. ':agent:' .. agent
  redis.call('ZREM', mine, id)
  if redis.call('EXISTS', mine) == 1 then return end
  redis.call('ZREM', queue .. ':agents', agent)
  if redis.call('EXISTS', queue .. ':agents') == 1 then return end
  redis.call('DEL', queue .. ':paid', queue .. ':clock')
  local turn = turn_of(queue_name)
  if redis.call('SREM', P .. 'queues', queue_name) == 1 and redis.call('HINCRBY', turn, 'queues', -1) <= 0 then
    redis.call('DEL', turn)
  end
end

-- A lane serves one more request of the role; after as many as its weight the role comes after the others there.
local function take_turn(request, lane, sequence)
  local turn = turn_of(request.queue)
  if redis.call('EXISTS', turn) == 0 then return end
  local weight = tonumber(redis.call('HGET', P .. 'policy', 'weight:' .. request.role) or 1)
  if redis.call('HINCRBY', turn, 'used:' .. lane, 1) >= weight then
    redis.call('HSET', turn, 'served:' .. lane, sequence, 'used:' .. lane, 0)
  end
end

-- Gives the agent back what its dispatch charged.
local function refund(request)
  local queue = P .. 'queue:' .. request.queue
  local paid = tonumber(redis.call('ZSCORE', queue .. ':paid', request.agent) or 0)
  if not request.charge or paid == 0 then return end
  if paid - tonumber(request.charge) > tonumber(redis.call('HGET', queue .. ':clock', 'clock') or 0) then
    redis.call('ZINCRBY', queue .. ':paid', -tonumber(request.charge), request.agent)
  else
    redis.call('ZREM', queue .. ':paid', request.agent)
  end
  redis.call('ZADD', queue .. ':agents', 'XX', 'LT', tag(queue, request.agent), request.agent)
end

-- Ends an attempt: the lane has its credit back, nothing of it is left to ARQ.
local function drop_job(jobs, job)
  redis.call('ZREM', jobs, job)
  redis.call('DEL', P .. 'arq:job:' .. job, P .. 'arq:in-progress:' .. job, P .. 'arq:retry:' .. job)
end

-- Takes a request out of wherever its state keeps it. Deletes first, so scripts may start with it when memory is full.
local function remove(id, request)
  redis.call('ZREM', P .. 'leases', id)
  redis.call('ZREM', P .. 'delayed', id)
  if request.state == 'waiting' then dequeue(id, request.queue, request.agent) end
  if request.state == 'dispatched' or request.state == 'running' then
    drop_job(lane_queue(request.lane, request.kind), TAG .. id .. ':' .. request.attempt)
    release(request)
  end
end

-- idle: nothing of the role is left, so the time until its next end says nothing of how fast it drains.
local function note_drain(role, now, idle)
  local drain = P .. 'drain:' .. role
  local last, mean = unpack(redis.call('HMGET', drain, 'at', 'mean'))
  if last then
    local gap = math.min(now - tonumber(last), 60000)
    mean = mean and (0.8 * tonumber(mean) + 0.2 * gap) or gap
    redis.call('HSET', drain, 'mean', int(mean))
  end
  if idle then
    redis.call('HDEL', drain, 'at')
  else
    redis.call('HSET', drain, 'at', int(now))
  end
  redis.call('EXPIRE', drain, KEEP_ENDED_S)
end

local function priority_of(queue)
  return string.match(queue or '', '^[^:]*:[^:]*:([^:]+)') or 'normal'
end

-- what: accepted, or how it ended. A new field may be a new hash's first.
local function count(request, what, now)
  local rates = P .. 'rates:' .. int(math.floor(now / RATE_MS))
  local field = request.role .. ':' .. priority_of(request.queue) .. ':' .. what
  if redis.call('HINCRBY', rates, field, 1) == 1 then
    redis.call('PEXPIRE', rates, RATE_MS * (RATE_BUCKETS + 2))
  end
end

-- ending: completed, failed, cancelled or expired; message: what the agent is told, JSON
local function end_one(id, request, ending, message, code)
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
      'id', id, 'role', request.role, 'lane', request.lane or '', 'code', code or '')
  end
  tell_agent(id, message)
  if redis.call('EXISTS', P .. 'queues') == 1 then ring() end
end

local function brief(ending, request)
  return '{"v":1,"type":"' .. ending .. '","attempt":' .. request.attempt .. '}'
end

-- How a request ends that is not to run again, whatever its attempt came to; nil if it may.
local function due_ending(request)
  return request.cancel or (tonumber(request.deadline) <= now_ms() and 'expired') or nil
end

-- Whether a request has an attempt whose lease is over. hold: until when none lapses, as `look` says. 0 in `leases`: `bury`
-- has it, its worker is dead.
local function has_lapsed(id, request, hold)
  if request.state ~= 'dispatched' and request.state ~= 'running' then return false end
  local lease = tonumber(redis.call('ZSCORE', P .. 'leases', id) or math.huge)
  hold = hold or tonumber(redis.call('HGET', P .. 'swept', 'hold') or math.huge)
  return lease == 0 or math.max(lease, hold) <= now_ms()
end

-- Whoever let a lease lapse takes no new work until the next beat: the worker that ran it, or the whole lane if none of its
-- workers started it. Counts a worker's death.
local function note_lapse(id, request)
  if request.state == 'dispatched' then
    redis.call('DEL', P .. 'lane:' .. request.lane .. ':workers')
  else
    redis.call('ZREM', P .. 'lane:' .. request.lane .. ':workers', request.worker)
    redis.call('HINCRBY', P .. 'request:' .. id, 'crashes', 1)
  end
end

-- Of a lease that has lapsed {id, attempt, state, lane, queue, starts, crashes before, it ran alone: 0 or 1, ms to its
-- deadline, the server has its payload: 0 or 1}, by which decide/recovery says what becomes of the request. The lease stays
-- until that is done, and is reported again. nil where nothing is to be decided.
local function lapsed_attempt(id, request)
  local ending = due_ending(request)
  if ending then
    note_lapse(id, request)
    end_one(id, request, ending, brief(ending, request))
    return nil
  end
  return { id, tonumber(request.attempt), request.state, request.lane, request.queue, tonumber(request.starts),
    tonumber(request.crashes), request.alone and 1 or 0, tonumber(request.deadline) - now_ms(),
    request.entry ~= '' and 1 or 0 }
end

-- Whether a request that is not known was cancelled before. mark: what `cancel` has left: the client that gave it up, '' for
-- all; client: that has sent it.
local function is_unwanted(mark, client)
  return mark and (mark == '' or mark == client)
end

-- reason: cancelled or expired
local function cancel_one(id, reason)
  local request = read(id)
  if not request then return 'unknown' end
  if request.state == 'waiting' or request.state == 'delayed' or request.state == 'dispatched' then
    end_one(id, request, reason, brief(reason, request))
    return reason
  end
  if request.state ~= 'running' then return request.state == reason and reason or 'ended' end
  if not request.cancel then redis.call('HSET', P .. 'request:' .. id, 'cancel', reason) end
  tell_worker(id, request, request.cancel or reason)
  return 'flagged'
end

-- Gives an attempt to ARQ. Returns the job. Workers of an earlier version look for it outside the pool's prefix.
local function put_job(id, attempt, lane, kind, sequence, now)
  local job = TAG .. id .. ':' .. attempt
  local prefix = redis.call('HGET', P .. 'lane:' .. lane .. ':state', 'arq') and P or ''
  redis.call('SET', prefix .. 'arq:job:' .. job,
    '{"t":null,"f":"run_request","a":["' .. id .. '",' .. attempt .. '],"k":{},"et":' .. int(now) .. '}', 'PX', JOB_KEPT_MS)
  redis.call('ZADD', lane_queue(lane, kind), sequence, job)
  return job
end

-- ARQ's mark on a job: nobody who reads the lane's queue is to start it.
local function mark(id, attempt)
  redis.call('SET', P .. 'arq:in-progress:' .. TAG .. id .. ':' .. attempt, '1', 'PX', JOB_KEPT_MS)
end

-- waiting -> dispatched, to a lane that takes it. Charges the agent one turn. Returns the job.
local function dispatch_one(id, request, lane, model, token)
  local now = now_ms()
  local queue = P .. 'queue:' .. request.queue
  local start_tag = tonumber(redis.call('ZSCORE', queue .. ':agents', request.agent) or tag(queue, request.agent))
  local attempt = int(math.max(tonumber(request.attempt) + 1, now))

  local busy = redis.call('ZCARD', queue .. ':agents') > 1 or redis.call('ZCARD', queue .. ':agent:' .. request.agent) > 1
  dequeue(id, request.queue, request.agent)
  local sequence = int(redis.call('INCR', P .. 'sequence'))
  take_turn(request, lane, sequence)
  if busy then
    local clock = math.max(start_tag, tonumber(redis.call('HGET', queue .. ':clock', 'clock') or 0))
    redis.call('ZADD', queue .. ':paid', start_tag + 1, request.agent)
    redis.call('ZREMRANGEBYSCORE', queue .. ':paid', '-inf', clock)
    redis.call('HSET', queue .. ':clock', 'clock', clock, 'served', sequence)
    redis.call('ZADD', queue .. ':agents', 'XX', start_tag + 1, request.agent)
  end
  redis.call('HSET', P .. 'request:' .. id, 'state', 'dispatched', 'attempt', attempt, 'lane', lane, 'model', model,
    'token', token, 'charge', busy and '1' or '0')
  request.state, request.attempt, request.lane, request.model = 'dispatched', attempt, lane, model
  hold_alone(lane, id, request)
  return put_job(id, attempt, lane, request.kind, sequence, now)
end

local function ring_lane(lane, kind, message)
  redis.call('PUBLISH', CHANNEL .. 'doorbell:' .. lane .. (SUFFIXES[kind] or ':' .. kind), message)
end

-- Whether some worker of the lane was heard of within a lease.
local function beats(lane, now, lease)
  return whole(redis.call('HGET', P .. 'lane:' .. lane .. ':state', 'seen')) >= now - lease
end

-- The names of what `lane_facts` has of a lane: fields of its hash, as its workers wrote them; then `name`; `beats`, 0 or 1,
-- and `beat_ms` since the last; `takers`: workers that take new work; `kept_for`: the suspect that runs there alone or is
-- next, or ''; `queued:KIND`.
local LANE_FACTS = { 'provider', 'endpoint', 'models', 'limit', 'offer', 'told', 'why', 'name', 'beats', 'beat_ms', 'takers',
  'kept_for' }
for _, kind in ipairs(KINDS) do LANE_FACTS[#LANE_FACTS + 1] = 'queued:' .. kind end

-- What is known of a lane, in the order of LANE_FACTS; nil if nothing is. lease: the policy's, ms.
local function lane_facts(name, now, lease)
  local facts = redis.call('HMGET', P .. 'lane:' .. name .. ':state', 'provider', 'endpoint', 'models', 'limit', 'offer',
    'told', 'why', 'seen')
  if not (facts[1] or facts[8]) then return nil end -- nothing is left of it but its name
  local seen = whole(facts[8])
  facts[8], facts[9], facts[10], facts[11], facts[12] = name, seen >= now - lease and 1 or 0, now - seen,
    redis.call('ZCOUNT', P .. 'lane:' .. name .. ':workers', int(now - lease), '+inf'), kept_for(name) or ''
  for i, kind in ipairs(KINDS) do facts[12 + i] = redis.call('ZCARD', lane_queue(name, kind)) end
  return facts
end
