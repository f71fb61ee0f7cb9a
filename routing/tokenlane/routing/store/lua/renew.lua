-- running -> running. A worker's beat: announces its lane, and renews the leases of all requests that it runs. If the server
-- has lost such a request, the script restores it, so that no running work is lost with the server's data, and flags it if it
-- was cancelled in the meantime.
--
-- uses  arq_jobs
-- KEYS  1 the pool's prefix
-- ARGV  1 worker  2 lane  3 'up' if it takes new work, 'loading', 'down' or 'draining'  4 provider  5 endpoint
--       6 models, JSON  7 limit for chats  8 offer, JSON  9 code of the newest error from its model server, until a reply with
--       `registered` has confirmed it, or ''  10 ms since that error  11 the worker's report, JSON
--       12 why its model server is loading or down
--       then for each request: id, attempt, client, agent, role, kind, ms to its deadline
-- reply {'ok' or 'conflict', endpoint of the lane, policy's lease ms, registered: 1 or 0, then for each request 'mine',
--       'stale', 'cancelled' or 'expired'}

local worker, lane, told, provider, endpoint, models, limit, offer, fault, fault_age, report, why = unpack(ARGV, 1, 12)
local takes = told == 'up'
local now, lease = now_ms(), rule('lease_ms')
local workers, state = P .. 'lane:' .. lane .. ':workers', P .. 'lane:' .. lane .. ':state'
redis.call('ZREMRANGEBYSCORE', workers, '-inf', int(now - lease))
if not takes then redis.call('ZREM', workers, worker) end

local before = redis.call('HMGET', state, 'provider', 'endpoint', 'models', 'limit', 'offer')
local known = before[2]
local others = redis.call('ZCARD', workers) - (redis.call('ZSCORE', workers, worker) and 1 or 0)
local status = 'ok'
if known and known ~= endpoint and others > 0 then
  status = 'conflict'
else
  known = endpoint
  -- A worker that waits for its model server does not know its models yet. So the lane keeps the offer that another worker
  -- announced, or that was announced before. Any client may have written the hash, so fields may be missing.
  local pulling = cjson.decode(offer).pulling
  local same = before[1] == provider and before[2] == endpoint and before[3] and before[4] and before[5]
  if same and not takes and (models == '[]' or others > 0) then models, limit, offer = unpack(before, 3, 5) end
  local opened = takes and redis.call('ZADD', workers, int(now), worker) == 1
  redis.call('HSET', state, 'provider', provider, 'endpoint', endpoint, 'models', models, 'limit', limit,
    'offer', offer, 'seen', int(now), 'arq', P, 'told', told, 'why', why)
  redis.call('ZADD', P .. 'lanes', int(now), lane)
  redis.call('ZADD', P .. 'workers', int(now), worker)
  if pulling and next(pulling) then
    redis.call('HSET', P .. 'pulls', lane, cjson.encode(pulling))
  else
    redis.call('HDEL', P .. 'pulls', lane)
  end
  if takes or told == 'draining' or redis.call('ZCARD', workers) > 0 then
    redis.call('HDEL', P .. 'unready', lane)
  else
    redis.call('HSET', P .. 'unready', lane, told)
  end
  if opened then ring() end
end

-- Only `register` creates this key. If the server has lost the key, PEXPIRE returns 0, and the worker registers again.
local facts = P .. 'worker:' .. worker
local registered = redis.call('PEXPIRE', facts, int(3 * lease))
if registered == 1 then
  redis.call('HSET', facts, 'revision', redis.call('HGET', P .. 'policy', 'revision') or '0', 'report', report,
    'told', told, 'why', why)
  if fault ~= '' then redis.call('HSET', facts, 'error', fault, 'error_at', int(now - fault_age)) end
end

local function renew_one(id, attempt, client, agent, role, kind, left)
  local request = read(id)
  local cancel = request and request.cancel
  if not request then
    cancel = is_unwanted(redis.call('GET', P .. 'unwanted:' .. id), client) and 'cancelled'
    redis.call('HSET', P .. 'request:' .. id,
      'state', 'running', 'role', role, 'queue', '', 'agent', agent, 'client', client, 'kind', kind, 'entry', '',
      'seq', '0', 'created', int(now), 'deadline', int(now + left), 'attempt', attempt, 'starts', '1', 'crashes', '0',
      'lane', lane, 'worker', worker, 'started', int(now))
    redis.call('ZADD', P .. 'deadlines', int(now + left), id)
    redis.call('ZADD', P .. 'clients', 'NX', int(now), client)
    redis.call('SADD', P .. 'client:' .. client, id)
    redis.call('SADD', P .. 'agent:' .. agent, id)
    redis.call('ZADD', lane_queue(lane, kind), 1, job_of(id, attempt))
    mark(job_of(id, attempt))
    if cancel then redis.call('HSET', P .. 'request:' .. id, 'cancel', cancel) end
  elseif request.state ~= 'running' or request.attempt ~= attempt or request.worker ~= worker then
    return 'stale'
  end
  redis.call('ZADD', P .. 'leases', int(now + lease), id)
  return cancel or 'mine'
end

local reply = { status, known, lease, registered }
for i = 13, #ARGV, 7 do
  reply[#reply + 1] = renew_one(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5],
    tonumber(ARGV[i + 6]))
end
return reply
