-- Reads the state of the whole pool at one moment, for operators. watch/snapshot_reply.py names the values of the reply.
--
-- uses  arq_jobs, lanes, rates
-- KEYS  1 the pool's prefix
-- ARGV  1 ms without a beat after which a client counts as silent
-- reply {now ms, policy revision, policy document or nil, queues, lanes, workers, routers, clients, rates, number of delayed
--       requests, ms time of the last sweep or 0, keys, LANE_FACTS of lanes.lua, lanes that an operator drained, roles
--       that an operator paused, ms time when all retries are paid for or 0}
--       queue: {name, number of waiting requests, ms for which the oldest has waited}
--       lane: {the values of `lane_facts`, jobs}
--       job: {'running' or 'dispatched', worker or '', role, priority, kind}
--       worker: {name, ms time of the last beat, accepts new work: 0 or 1, lane or '', host, versions JSON, policy revision,
--       code of the last error or '', ms time of that error or 0, report JSON or '', ids of its keys or nil from an older
--       version, condition of its model server or '', why the model server is not up or ''}; host, versions and policy
--       revision are nil if the worker is not registered
--       router: {host/name, ms time of the last beat, policy revision that it follows or nil if it stands by, number of
--       internal errors that its process has survived}
--       clients: {number of clients, number of those that are silent}
--       rates: {ms that the counts cover, counts, failures}; count: {role, priority, 'accepted', 'refused' or an ending, number
--       of requests}; failure: {role, priority, error code, lane or '', number of requests}
--       keys: {ids of the pool's keys, of its retiring keys, of its prepared keys}

local now = now_ms()
local lease = policy_rule('lease_ms')
local since = decimal(now - lease)

-- The first request of each agent is its oldest, so the queue's oldest request is the oldest of these.
local function queue_of(name)
  local queue, waiting, first, oldest = P .. 'queue:' .. name, 0, nil, nil
  for _, agent in ipairs(redis.call('ZRANGE', queue .. ':agents', 0, -1)) do
    local agent_queue = queue .. ':agent:' .. agent
    waiting = waiting + redis.call('ZCARD', agent_queue)
    local id, seq = unpack(redis.call('ZRANGE', agent_queue, 0, 0, 'WITHSCORES'))
    if id and (not first or tonumber(seq) < first) then first, oldest = tonumber(seq), id end
  end
  local created = oldest and redis.call('HGET', P .. 'request:' .. oldest, 'created')
  return { name, waiting, now - to_integer(created, now) }
end

local function jobs_of(lane)
  local jobs = {}
  for _, kind in ipairs(KINDS) do
    for _, job in ipairs(redis.call('ZRANGE', lane_queue(lane, kind), 0, -1)) do
      local id, attempt = attempt_of(job)
      local request = id and redis.call('HMGET', P .. 'request:' .. id, 'state', 'worker', 'role', 'queue', 'attempt')
      if request and request[5] == attempt and (request[1] == 'running' or request[1] == 'dispatched') then
        jobs[#jobs + 1] = { request[1], request[2] or '', request[3] or '', priority_of(request[4]), kind }
      end
    end
  end
  return jobs
end

local queues, lanes, workers, routers = {}, {}, {}, {}
for _, name in ipairs(redis.call('SMEMBERS', P .. 'queues')) do queues[#queues + 1] = queue_of(name) end

local lane_of = {}
for _, name in ipairs(redis.call('ZRANGE', P .. 'lanes', 0, -1)) do
  local facts = lane_facts(name, now, lease)
  if facts then
    lanes[#lanes + 1] = { facts, jobs_of(name) }
    for _, worker in ipairs(redis.call('ZRANGEBYSCORE', P .. 'lane:' .. name .. ':workers', since, '+inf')) do
      lane_of[worker] = name
    end
  end
end

local function each_by_beat(key, visit)
  local beats = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  for i = 1, #beats, 2 do visit(beats[i], tonumber(beats[i + 1])) end
end
each_by_beat(P .. 'workers', function(name, beat)
  local facts = redis.call('HMGET', P .. 'worker:' .. name, 'lane', 'host', 'versions', 'revision', 'error', 'error_at',
    'report', 'keys', 'condition', 'why')
  workers[#workers + 1] = { name, beat, lane_of[name] and 1 or 0, facts[1] or lane_of[name] or '', facts[2], facts[3],
    facts[4], facts[5] or '', to_integer(facts[6]), facts[7] or '', facts[8], facts[9] or '', facts[10] or '' }
end)
each_by_beat(P .. 'routers', function(name, beat)
  routers[#routers + 1] = { name, beat, redis.call('GET', P .. 'router:' .. name),
    to_integer(redis.call('GET', P .. 'router:' .. name .. ':survived')) }
end)

local bucket = math.floor(now / RATE_MS)
local sums, counts = {}, {}
for i = bucket - RATE_BUCKETS, bucket do
  local flat = redis.call('HGETALL', P .. 'rates:' .. decimal(i))
  for j = 1, #flat, 2 do sums[flat[j]] = (sums[flat[j]] or 0) + to_integer(flat[j + 1]) end
end
for name, sum in pairs(sums) do
  local role, priority, what = string.match(name, '^([^:]*):([^:]*):(.*)$')
  counts[#counts + 1] = { role or '', priority or '', what or name, sum }
end

local window = (bucket - RATE_BUCKETS) * RATE_MS
local failures, failure_of = {}, {}
for _, entry in ipairs(redis.call('XRANGE', P .. 'failed', decimal(window), '+')) do
  local failed = {}
  for i = 1, #entry[2], 2 do failed[entry[2][i]] = entry[2][i + 1] end
  local failure = { failed.role or '', failed.priority or '', failed.code or '', failed.lane or '', 0 }
  local name = table.concat(failure, ':')
  if not IS_UNROUTED[failed.kind] then
    if not failure_of[name] then
      failure_of[name], failures[#failures + 1] = failure, failure
    end
    failure_of[name][5] = failure_of[name][5] + 1
  end
end

local clients = redis.call('ZCARD', P .. 'clients')
local audible = redis.call('ZCOUNT', P .. 'clients', decimal(now - tonumber(ARGV[1])), '+inf')
local keys = {}
for i, name in ipairs({ 'key', 'retiring', 'prepared' }) do keys[i] = redis.call('GET', P .. name) or '' end
local policy = redis.call('HMGET', P .. 'policy', 'revision', 'document')
return { now, to_integer(policy[1]), policy[2], queues, lanes, workers, routers, { clients, clients - audible },
  { now - window, counts, failures }, redis.call('ZCARD', P .. 'delayed'),
  to_integer(redis.call('HGET', P .. 'swept', 'at')), keys, LANE_FACTS, redis.call('SMEMBERS', P .. 'drained'),
  redis.call('SMEMBERS', P .. 'paused'), to_integer(redis.call('HGET', P .. 'retries', 'paid_at')) }
