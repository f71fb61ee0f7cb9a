-- The order in which waiting requests are dispatched. Within a queue, agents take turns: the agent with the lowest tag is next,
-- and each turn raises the agent's tag by one. Between queues, roles take turns at each lane: the turns of a role, kind and
-- priority are counted here, and decide/role_fairness.py compares them.
-- uses base

local AT_ONCE_MS, MOST_MEASURED = 250, 32

-- The tag with which an agent joins a queue: the tag that it has paid for, or the queue's clock if the clock is later. Thus
-- an agent that was absent for a while has no advantage. queue: the prefix of the queue's keys.
local function agent_tag(queue, agent)
  local clock = tonumber(redis.call('HGET', queue .. ':clock', 'clock') or 0)
  local paid = tonumber(redis.call('ZSCORE', queue .. ':paid', agent) or 0)
  return math.max(clock, paid)
end

-- The key of the counters that all queues of a role, kind and priority share.
local function turn_key(queue_name)
  return P .. 'turn:' .. string.match(queue_name, '^[^:]*:[^:]*:[^:]*')
end

-- Puts a request into its queue. A role that had no waiting requests goes behind the roles that have some. The place of a queue
-- that was empty follows from the request's `seq`: a new request comes last, and a requeued request comes before requests
-- that were submitted later. An agent that already has requests in the queue keeps its place.
local function enqueue(id, request)
  local queue, turn = P .. 'queue:' .. request.queue, turn_key(request.queue)
  if redis.call('SADD', P .. 'queues', request.queue) == 1 then
    redis.call('HSET', queue .. ':clock', 'served', request.seq)
    if redis.call('HINCRBY', turn, 'queues', 1) == 1 then
      redis.call('HSET', turn, 'served', redis.call('GET', P .. 'sequence') or 0)
    end
  end
  redis.call('ZADD', queue .. ':agent:' .. request.agent, request.seq, id)
  redis.call('ZADD', queue .. ':agents', 'LT', agent_tag(queue, request.agent), request.agent)
end

-- Removes a request from its queue, and deletes what only a queue with requests needs.
local function dequeue(id, queue_name, agent)
  local queue = P .. 'queue:' .. queue_name
  local agent_queue = queue .. ':agent:' .. agent
  redis.call('ZREM', agent_queue, id)
  if redis.call('EXISTS', agent_queue) == 1 then return end
  redis.call('ZREM', queue .. ':agents', agent)
  if redis.call('EXISTS', queue .. ':agents') == 1 then return end
  redis.call('DEL', queue .. ':paid', queue .. ':clock')
  local turn = turn_key(queue_name)
  if redis.call('SREM', P .. 'queues', queue_name) == 1 and redis.call('HINCRBY', turn, 'queues', -1) <= 0 then
    redis.call('DEL', turn)
  end
end

-- Counts a request that is dispatched to a lane. After `weight` requests the turn of the request's role at that lane ends.
-- sequence: the number of this dispatch.
local function count_turn(request, lane, sequence)
  local turn = turn_key(request.queue)
  if redis.call('EXISTS', turn) == 0 then return end
  local weight = tonumber(redis.call('HGET', P .. 'policy', 'weight:' .. request.role) or 1)
  if redis.call('HINCRBY', turn, 'used:' .. lane, 1) >= weight then
    redis.call('HSET', turn, 'served:' .. lane, sequence, 'used:' .. lane, 0)
  end
end

-- The measure of how fast a queue drains, after one more request has left it: the time since which requests are counted, and
-- their number. A request that found a free slot at once does not show how fast slots become free, so counting starts again. Of
-- many requests, the older ones count less and less. began, left: the measure before, or nil.
local function measure_drain(request, began, left)
  local now = now_ms()
  if not began or now - tonumber(request.created) < AT_ONCE_MS then return now, 0 end
  began, left = tonumber(began), tonumber(left) + 1
  if left < MOST_MEASURED then return began, left end
  return now - math.floor((now - began) / 2), math.floor(left / 2)
end

-- Takes a request out of its queue for a lane, and charges its agent one turn if other requests wait in the queue. Returns the
-- sequence number of this dispatch, and the charge: '0' or '1'.
local function take_for_lane(id, request, lane)
  local queue, agent = P .. 'queue:' .. request.queue, request.agent
  local start_tag = tonumber(redis.call('ZSCORE', queue .. ':agents', agent) or agent_tag(queue, agent))
  local busy = redis.call('ZCARD', queue .. ':agents') > 1 or redis.call('ZCARD', queue .. ':agent:' .. agent) > 1
  dequeue(id, request.queue, agent)
  local sequence = decimal(redis.call('INCR', P .. 'sequence'))
  count_turn(request, lane, sequence)
  if not busy then return sequence, '0' end
  local last, began, left = unpack(redis.call('HMGET', queue .. ':clock', 'clock', 'began', 'left'))
  local clock = math.max(start_tag, tonumber(last or 0))
  began, left = measure_drain(request, began, left)
  redis.call('ZADD', queue .. ':paid', start_tag + 1, agent)
  redis.call('ZREMRANGEBYSCORE', queue .. ':paid', '-inf', clock)
  redis.call('HSET', queue .. ':clock', 'clock', clock, 'served', sequence, 'began', decimal(began), 'left', decimal(left))
  redis.call('ZADD', queue .. ':agents', 'XX', start_tag + 1, agent)
  return sequence, '1'
end

-- Gives the agent back the turn that `take_for_lane` charged.
local function refund(request)
  local queue = P .. 'queue:' .. request.queue
  local paid = tonumber(redis.call('ZSCORE', queue .. ':paid', request.agent) or 0)
  if not request.charge or paid == 0 then return end
  if paid - tonumber(request.charge) > tonumber(redis.call('HGET', queue .. ':clock', 'clock') or 0) then
    redis.call('ZINCRBY', queue .. ':paid', -tonumber(request.charge), request.agent)
  else
    redis.call('ZREM', queue .. ':paid', request.agent)
  end
  redis.call('ZADD', queue .. ':agents', 'XX', 'LT', agent_tag(queue, request.agent), request.agent)
end
