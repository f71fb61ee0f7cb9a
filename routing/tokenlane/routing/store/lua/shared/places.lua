-- Why a request waits: its place in its queue, how fast the queue drains, and what its last attempt left.
-- uses base

local MOST_AGENTS = 64

-- The mean time between two requests that leave a queue, in ms; 0 if it is unknown. Until it is measured for the queue, it is the
-- mean time between the ends of two requests of the role.
local function pace_of(queue, role)
  local began, left = unpack(redis.call('HMGET', queue .. ':clock', 'began', 'left'))
  if to_integer(left) > 0 then return math.floor((now_ms() - to_integer(began)) / to_integer(left)) end
  return to_integer(redis.call('HGET', P .. 'drain:' .. role, 'mean'))
end

-- A queue as `place_of` needs it: the agents that are next, the lowest tag first, how many requests wait, and the pace. Beyond
-- the first 64 agents, each agent counts as if it had one request. queue: the prefix of the queue's keys.
local function read_queue(queue, role)
  local agents, waiting, flat = {}, 0, redis.call('ZRANGE', queue .. ':agents', 0, MOST_AGENTS - 1, 'WITHSCORES')
  for i = 1, #flat, 2 do
    local agent = { name = flat[i], tag = tonumber(flat[i + 1]), waiting = redis.call('ZCARD', queue .. ':agent:' .. flat[i]) }
    agents[#agents + 1], agents[agent.name], waiting = agent, agent, waiting + agent.waiting
  end
  local others = redis.call('ZCARD', queue .. ':agents') - #agents
  return { agents = agents, waiting = waiting + others, others = others, pace = pace_of(queue, role) }
end

-- How many requests of another agent are dispatched before the request whose turn has the tag `turn`.
local function before(other, turn, agent)
  local turns = turn - other.tag
  local is_tie = turns >= 0 and turns == math.floor(turns) and other.name < agent
  return math.min(math.max(0, math.ceil(turns)) + (is_tie and 1 or 0), other.waiting)
end

-- The place of a waiting request in its queue: {position from 1, number of requests that wait in the queue, mean ms between two
-- requests that leave the queue or 0}; {0, 0, 0} for a request that does not wait. Agents take turns, as in
-- agent_fairness.lua. queues: a table that holds the queues which earlier calls of the same script have read.
local function place_of(id, request, queues)
  if not request or request.state ~= 'waiting' then return { 0, 0, 0 } end
  local queue, agent = P .. 'queue:' .. request.queue, request.agent
  local nth = redis.call('ZRANK', queue .. ':agent:' .. agent, id)
  local tag = tonumber(redis.call('ZSCORE', queue .. ':agents', agent) or nil)
  if not nth or not tag then return { 0, 0, 0 } end
  queues[queue] = queues[queue] or read_queue(queue, request.role)
  local known, turn, ahead, sooner = queues[queue], tag + nth, nth, 0
  for _, other in ipairs(known.agents) do
    if other.name ~= agent then ahead = ahead + before(other, turn, agent) end
    if other.tag < turn then sooner = sooner + 1 end
  end
  if known.others > 0 then
    if not known.agents[agent] and tag < turn then sooner = sooner + 1 end
    local others = nth == 0 and redis.call('ZRANK', queue .. ':agents', agent) - #known.agents
      or redis.call('ZCOUNT', queue .. ':agents', '-inf', '(' .. turn) - sooner
    ahead = ahead + math.max(0, others)
  end
  return { ahead + 1, math.max(known.waiting, ahead + 1), known.pace }
end

-- What explains why a request waits, if it waits, is delayed, or is dispatched and not started: {queue, lane or '', ms until a
-- delayed request waits again or 0, code that says why its last attempt ended or '', whether the retry budget delays it: 0 or 1,
-- place as `place_of` returns it}. Otherwise {}.
local function wait_of(id, request, now, queues)
  if not request or not ALIVE[request.state] or request.state == 'running' then return {} end
  local delayed = tonumber(redis.call('ZSCORE', P .. 'delayed', id) or now)
  return { request.queue, request.state == 'dispatched' and request.lane or '', math.max(0, delayed - now),
    last_ended_by(request), request.delayed_by == 'budget' and 1 or 0,
    place_of(id, request, queues) }
end
