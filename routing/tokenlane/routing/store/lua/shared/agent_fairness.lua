-- The order in which waiting requests are served. Within a queue, agents take turns, by tags. At each lane, the queues of a
-- role, kind and priority share turns: they are counted here, and decide/role_fairness.py compares them.
-- uses base

-- An agent's place in its queue: its finish tag, or the queue's clock if the clock is later.
local function tag(queue, agent)
  local clock = tonumber(redis.call('HGET', queue .. ':clock', 'clock') or 0)
  local paid = tonumber(redis.call('ZSCORE', queue .. ':paid', agent) or 0)
  return math.max(clock, paid)
end

-- The key of the turn that all queues of a role, kind and priority share.
local function turn_of(queue_name)
  return P .. 'turn:' .. string.match(queue_name, '^[^:]*:[^:]*:[^:]*')
end

-- Puts a request into its queue. A role without waiting requests goes behind the roles that already wait. An empty queue takes
-- its place by the request's `seq`, so a new request goes last and a requeued request before later ones. An agent that already
-- waits keeps its place.
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

-- Counts one more request of a role that a lane serves. After `weight` requests the role's turn at that lane ends.
local function take_turn(request, lane, sequence)
  local turn = turn_of(request.queue)
  if redis.call('EXISTS', turn) == 0 then return end
  local weight = tonumber(redis.call('HGET', P .. 'policy', 'weight:' .. request.role) or 1)
  if redis.call('HINCRBY', turn, 'used:' .. lane, 1) >= weight then
    redis.call('HSET', turn, 'served:' .. lane, sequence, 'used:' .. lane, 0)
  end
end

-- Takes a request out of its queue for a lane, and charges its agent one turn if other requests wait. Returns the sequence
-- number of this dispatch, and the charge.
local function serve(id, request, lane)
  local queue, agent = P .. 'queue:' .. request.queue, request.agent
  local start_tag = tonumber(redis.call('ZSCORE', queue .. ':agents', agent) or tag(queue, agent))
  local busy = redis.call('ZCARD', queue .. ':agents') > 1 or redis.call('ZCARD', queue .. ':agent:' .. agent) > 1
  dequeue(id, request.queue, agent)
  local sequence = int(redis.call('INCR', P .. 'sequence'))
  take_turn(request, lane, sequence)
  if not busy then return sequence, '0' end
  local clock = math.max(start_tag, tonumber(redis.call('HGET', queue .. ':clock', 'clock') or 0))
  redis.call('ZADD', queue .. ':paid', start_tag + 1, agent)
  redis.call('ZREMRANGEBYSCORE', queue .. ':paid', '-inf', clock)
  redis.call('HSET', queue .. ':clock', 'clock', clock, 'served', sequence)
  redis.call('ZADD', queue .. ':agents', 'XX', start_tag + 1, agent)
  return sequence, '1'
end

-- Refunds the agent the turn that `serve` charged.
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
