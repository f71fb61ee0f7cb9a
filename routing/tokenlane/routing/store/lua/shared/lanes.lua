-- A lane's limits, its workers, and the suspect for which it is reserved. A suspect is a request whose attempts have crashed
-- workers: it runs alone on its lane.
-- uses base

-- How many requests of a kind a lane runs at once. Any client may have written the offer, so it may not be valid JSON.
local function lane_limit(lane, kind)
  local state = P .. 'lane:' .. lane .. ':state'
  if kind == 'chat' then return to_integer(redis.call('HGET', state, 'limit')) end
  local is_json, offer = pcall(cjson.decode, redis.call('HGET', state, 'offer') or '')
  local limits = is_json and type(offer) == 'table' and offer.limits
  local limit = type(limits) == 'table' and limits[kind]
  return type(limit) == 'number' and to_integer(limit) or 0
end

-- How many more requests of a kind a lane can run. The result is negative if the limit was lowered.
local function credit(lane, kind)
  return lane_limit(lane, kind) - redis.call('ZCARD', lane_queue(lane, kind))
end

-- How many workers of a lane accept new work and have sent a beat within the last lease. lease: the policy's lease, ms.
local function accepting_workers(lane, now, lease)
  return redis.call('ZCOUNT', P .. 'lane:' .. lane .. ':workers', decimal(now - lease), '+inf')
end

-- Whether an operator drained a lane, so that it gets no new work: 0 or 1.
local function is_drained(lane)
  return redis.call('SISMEMBER', P .. 'drained', lane)
end

-- The id of the suspect that runs alone on a lane, or for which the lane is reserved; nil if there is none. The key may outlive
-- the attempt, if a script of an older version ended the attempt.
local function reserved_for(lane)
  local alone = P .. 'lane:' .. lane .. ':alone'
  local id = redis.call('GET', alone)
  if not id then return nil end
  local state, at = unpack(redis.call('HMGET', P .. 'request:' .. id, 'state', 'lane'))
  if state == 'dispatched' or state == 'running' then return at == lane and id or nil end
  return ALIVE[state] and redis.call('PTTL', alone) > 0 and id or nil
end

-- The names of the values that `lane_facts` returns. `provider` to `why` are fields of the lane's hash, as its workers wrote
-- them. `name` is the lane's name; `beats`, whether a worker is alive, 0 or 1; `beat_ms`, ms
-- since the last beat; `accepting_workers`, how many workers accept new work; `reserved_for`, the id that the function of this
-- name returns, or ''; `drained`, whether an operator drained the lane, 0 or 1; `queued:KIND`, how many jobs are in the lane's
-- queue for this kind.
local LANE_FACTS = { 'provider', 'endpoint', 'models', 'limit', 'offer', 'condition', 'why', 'name', 'beats', 'beat_ms',
  'accepting_workers', 'reserved_for', 'drained' }
for _, kind in ipairs(KINDS) do LANE_FACTS[#LANE_FACTS + 1] = 'queued:' .. kind end

-- The values that LANE_FACTS names; nil if the lane's hash is gone. lease: the policy's lease, ms.
local function lane_facts(name, now, lease)
  local facts = redis.call('HMGET', P .. 'lane:' .. name .. ':state', 'provider', 'endpoint', 'models', 'limit', 'offer',
    'condition', 'why', 'seen')
  if not (facts[1] or facts[8]) then return nil end
  local last_beat = to_integer(facts[8])
  facts[8], facts[9], facts[10], facts[11], facts[12], facts[13] = name, last_beat >= now - lease and 1 or 0, now - last_beat,
    accepting_workers(name, now, lease), reserved_for(name) or '', is_drained(name)
  for i, kind in ipairs(KINDS) do facts[13 + i] = redis.call('ZCARD', lane_queue(name, kind)) end
  return facts
end
