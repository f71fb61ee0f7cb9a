-- Reads what a router needs to plan, at one moment: all lanes, and the heads of all queues. The heads of a queue are the
-- requests to dispatch next: at most as many as the lanes have free slots, but at least 1 and at most 16; none for the queues
-- of a role that an operator paused.
--
-- uses  agent_fairness, lanes
-- KEYS  1 the pool's prefix
-- reply {now ms, policy revision, heads, lanes, turns, ms for which routers or clients have looked at the pool without a gap}
--       head: {queue, agent, id, newest attempt or 0, more requests wait behind the heads of the queue: 0 or 1, sequence
--       number of the queue's last dispatch, ms since submit, place among the heads of the queue from 0, suspect: 0 or 1}
--       lanes: LANE_FACTS of lanes.lua, then the values of `lane_facts` for each lane
--       turns, for each role, kind and priority with waiting requests: {role:kind:priority, {field, value, ...} of the hash
--       `turn:ROLE:KIND:PRIO`}

local MOST_HEADS = 16
local now = now_ms()
local heads, lanes, names, lease = {}, { LANE_FACTS }, redis.call('ZRANGE', P .. 'lanes', 0, -1), policy_rule('lease_ms')

for _, name in ipairs(names) do lanes[#lanes + 1] = lane_facts(name, now, lease) end

-- How many heads a queue for this kind of work may have.
local most_of = {}
local function most_heads(kind)
  if not most_of[kind] then
    local room = 0
    for _, name in ipairs(names) do
      if is_drained(name) == 0 and accepting_workers(name, now, lease) > 0 then room = room + math.max(0, credit(name, kind)) end
    end
    most_of[kind] = math.max(1, math.min(MOST_HEADS, room))
  end
  return most_of[kind]
end

-- The agents whose requests can be among the heads, the lowest tag first, each with its oldest requests.
local function agents_of(queue, most)
  local agents, flat = {}, redis.call('ZRANGE', queue .. ':agents', 0, most - 1, 'WITHSCORES')
  for i = 1, #flat, 2 do
    agents[#agents + 1] = { name = flat[i], tag = tonumber(flat[i + 1]), taken = 0,
      ids = redis.call('ZRANGE', queue .. ':agent:' .. flat[i], 0, most - 1) }
  end
  return agents
end

-- The agent with the lowest tag that has a request left. `add_heads` raises the tag by one for each request that it takes, as
-- `dispatch` will do.
local function next_agent(agents)
  local first
  for _, agent in ipairs(agents) do
    local sooner = not first or agent.tag < first.tag or (agent.tag == first.tag and agent.name < first.name)
    if agent.taken < #agent.ids and sooner then first = agent end
  end
  return first
end

-- Adds the heads of a queue to `heads`, in the order in which they will be dispatched.
local function add_heads(name)
  local queue, most = P .. 'queue:' .. name, most_heads(string.match(name, '^[^:]*:([^:]*)'))
  local agents, picked = agents_of(queue, most), {}
  for place = 1, most do
    local agent = next_agent(agents)
    if not agent then break end
    agent.taken = agent.taken + 1
    agent.tag = agent.tag + 1
    picked[place] = { agent.name, agent.ids[agent.taken] }
  end
  local more = redis.call('ZCARD', queue .. ':agents') > #agents
  for _, agent in ipairs(agents) do more = more or redis.call('ZCARD', queue .. ':agent:' .. agent.name) > agent.taken end
  local served = to_integer(redis.call('HGET', queue .. ':clock', 'served'))
  for place, pick in ipairs(picked) do
    local created, attempt, suspect = unpack(redis.call('HMGET', P .. 'request:' .. pick[2], 'created', 'attempt',
      'suspect'))
    heads[#heads + 1] = { name, pick[1], pick[2], to_integer(attempt), more and 1 or 0, served,
      now - to_integer(created, now), place - 1, suspect and 1 or 0 }
  end
end

local turns, added = {}, {}
for _, name in ipairs(redis.call('SMEMBERS', P .. 'queues')) do
  if redis.call('SISMEMBER', P .. 'paused', string.match(name, '^[^:]*')) == 0 then add_heads(name) end
  local turn = turn_key(name)
  if not added[turn] then
    added[turn] = true
    turns[#turns + 1] = { string.sub(turn, #P + #'turn:' + 1), redis.call('HGETALL', turn) }
  end
end
local revision = tonumber(redis.call('HGET', P .. 'policy', 'revision') or 0)
local hold = tonumber(redis.call('HGET', P .. 'swept', 'hold') or now + policy_rule('lease_ms'))
return { now, revision, heads, lanes, turns, math.max(0, now - hold + policy_rule('lease_ms')) }
