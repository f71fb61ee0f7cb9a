-- A lane's limits, its workers, and the request for which it is reserved.
-- uses base

-- How many requests of a kind a lane serves at once.
local function lane_limit(lane, kind)
  local state = P .. 'lane:' .. lane .. ':state'
  if kind == 'chat' then return whole(redis.call('HGET', state, 'limit')) end
  local is_json, offer = pcall(cjson.decode, redis.call('HGET', state, 'offer') or '')
  local limits = is_json and type(offer) == 'table' and offer.limits
  local limit = type(limits) == 'table' and limits[kind]
  return type(limit) == 'number' and whole(limit) or 0
end

-- How many more requests of a kind a lane can take, if a worker takes work.
local function credit(lane, kind)
  return lane_limit(lane, kind) - redis.call('ZCARD', lane_queue(lane, kind))
end

-- How many workers of a lane take new work and have sent a beat within a lease. lease: the policy's lease, ms.
local function takers(lane, now, lease)
  return redis.call('ZCOUNT', P .. 'lane:' .. lane .. ':workers', int(now - lease), '+inf')
end

-- The suspect that runs alone on a lane, or for which the lane is kept free; nil if there is none. The mark may outlive the
-- attempt if a script of an older version ended the attempt.
local function kept_for(lane)
  local alone = P .. 'lane:' .. lane .. ':alone'
  local id = redis.call('GET', alone)
  if not id then return nil end
  local state, at = unpack(redis.call('HMGET', P .. 'request:' .. id, 'state', 'lane'))
  if state == 'dispatched' or state == 'running' then return at == lane and id or nil end
  return ALIVE[state] and redis.call('PTTL', alone) > 0 and id or nil
end

-- The names of the values that `lane_facts` returns: fields of the lane's hash, as its workers wrote them; `name`; `beats`,
-- whether a worker is alive, 0 or 1; `beat_ms` since the last beat; `takers`; `kept_for`, the suspect that runs alone on the
-- lane or is next to, or ''; and `queued:KIND`.
local LANE_FACTS = { 'provider', 'endpoint', 'models', 'limit', 'offer', 'told', 'why', 'name', 'beats', 'beat_ms', 'takers',
  'kept_for' }
for _, kind in ipairs(KINDS) do LANE_FACTS[#LANE_FACTS + 1] = 'queued:' .. kind end

-- The values for LANE_FACTS; nil for a lane whose hash is gone.
local function lane_facts(name, now, lease)
  local facts = redis.call('HMGET', P .. 'lane:' .. name .. ':state', 'provider', 'endpoint', 'models', 'limit', 'offer',
    'told', 'why', 'seen')
  if not (facts[1] or facts[8]) then return nil end
  local seen = whole(facts[8])
  facts[8], facts[9], facts[10], facts[11], facts[12] = name, seen >= now - lease and 1 or 0, now - seen,
    takers(name, now, lease), kept_for(name) or ''
  for i, kind in ipairs(KINDS) do facts[12 + i] = redis.call('ZCARD', lane_queue(name, kind)) end
  return facts
end
