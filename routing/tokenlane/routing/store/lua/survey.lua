-- Reads what a router needs for its decisions, at one moment: all lanes, and the heads of all queues, which are the requests
-- to serve next. A queue has at most as many heads as lanes have free slots, and at most 16.
--
-- uses  agent_fairness, lanes
-- KEYS  1 the pool's prefix
-- reply {now ms, policy revision, heads, lanes, turns, ms for which routers and clients have watched the pool without a gap}
--       head: {queue, agent, id, newest attempt or 0, more requests wait behind the heads of its queue: 0 or 1, sequence of
--       the queue's last dispatch, ms waited, place among the heads of its queue from 0, must run alone: 0 or 1}
--       lanes: LANE_FACTS of lanes.lua, then the values of `lane_facts` for each lane
--       turn, for each role, kind and priority with waiting requests: {role:kind:priority, its hash: field, value, ...}

local MOST_HEADS = 16
local now = now_ms()
local heads, lanes, names, lease = {}, { LANE_FACTS }, redis.call('ZRANGE', P .. 'lanes', 0, -1), rule('lease_ms')

for _, name in ipairs(names) do lanes[#lanes + 1] = lane_facts(name, now, lease) end

-- The most heads that a queue for this kind of work may have.
local most_of = {}
local function most_heads(kind)
  if not most_of[kind] then
    local room = 0
    for _, name in ipairs(names) do
      if takers(name, now, lease) > 0 then room = room + math.max(0, credit(name, kind)) end
    end
    most_of[kind] = math.max(1, math.min(MOST_HEADS, room))
  end
  return most_of[kind]
end

-- The agents whose requests can be among the heads, in the order of their tags, each with its oldest requests.
local function agents_of(queue, most)
  local agents, flat = {}, redis.call('ZRANGE', queue .. ':agents', 0, most - 1, 'WITHSCORES')
  for i = 1, #flat, 2 do
    agents[#agents + 1] = { name = flat[i], tag = tonumber(flat[i + 1]), taken = 0,
      ids = redis.call('ZRANGE', queue .. ':agent:' .. flat[i], 0, most - 1) }
  end
  return agents
end

-- The agent with the lowest tag among those with a request left. `heads_of` raises the tag by one for each request it takes,
-- as `dispatch` will do.
local function next_agent(agents)
  local first
  for _, agent in ipairs(agents) do
    local sooner = not first or agent.tag < first.tag or (agent.tag == first.tag and agent.name < first.name)
    if agent.taken < #agent.ids and sooner then first = agent end
  end
  return first
end

local function heads_of(name)
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
  local served = whole(redis.call('HGET', queue .. ':clock', 'served'))
  for place, pick in ipairs(picked) do
    local created, attempt, suspect = unpack(redis.call('HMGET', P .. 'request:' .. pick[2], 'created', 'attempt',
      'suspect'))
    heads[#heads + 1] = { name, pick[1], pick[2], whole(attempt), more and 1 or 0, served,
      now - whole(created, now), place - 1, suspect and 1 or 0 }
  end
end

local turns, seen = {}, {}
for _, name in ipairs(redis.call('SMEMBERS', P .. 'queues')) do
  heads_of(name)
  local turn = turn_of(name)
  if not seen[turn] then
    seen[turn] = true
    turns[#turns + 1] = { string.sub(turn, #P + #'turn:' + 1), redis.call('HGETALL', turn) }
  end
end
local revision = tonumber(redis.call('HGET', P .. 'policy', 'revision') or 0)
local hold = tonumber(redis.call('HGET', P .. 'swept', 'hold') or now + rule('lease_ms'))
return { now, revision, heads, lanes, turns, math.max(0, now - hold + rule('lease_ms')) }
