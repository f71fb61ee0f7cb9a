-- running -> running. A worker's beat: announces its lane, and renews the leases of all requests that it runs. A request that
-- the server has lost is restored, so that running work survives the loss of the server's data; it is flagged if it was
-- cancelled in the meantime.
--
-- uses  arq_jobs
-- KEYS  1 the pool's prefix
-- ARGV  1 worker  2 lane  3 condition: 'up' if the worker accepts new work, 'loading', 'paused', 'down' or 'draining'
--       4 provider  5 endpoint  6 models, JSON  7 limit for chats  8 offer, JSON
--       9 code of the newest error from the model server, repeated until a reply with registered = 1, or ''
--       10 ms since that error  11 the worker's report, JSON
--       12 why the model server is loading, paused or down, or why the worker accepts fewer requests than it could; or ''
--       13 ids of the pool's keys, as the worker knows them
--       then for each request that the worker runs: id, attempt, client, agent, role, kind, ms to the deadline
-- reply {'ok' or 'conflict', endpoint of the lane, policy's lease ms, registered: 1 or 0, then one value for each request}
--       conflict: workers of the lane with another endpoint are alive
--       registered: whether the server has what `register` stores
--       values: 'mine': the worker holds the attempt | 'stale': it does not | 'cancelled' | 'expired': it must end the request

local worker, lane, condition, provider, endpoint, models, limit, offer, error_code, error_age, report, why, keys =
  unpack(ARGV, 1, 13)
local accepts_work = condition == 'up'
local now, lease = now_ms(), policy_rule('lease_ms')
local workers, state = P .. 'lane:' .. lane .. ':workers', P .. 'lane:' .. lane .. ':state'
redis.call('ZREMRANGEBYSCORE', workers, '-inf', decimal(now - lease))
if not accepts_work then redis.call('ZREM', workers, worker) end
restore_keys(keys)

local previous = redis.call('HMGET', state, 'provider', 'endpoint', 'models', 'limit', 'offer')
local known = previous[2]
local others = redis.call('ZCARD', workers) - (redis.call('ZSCORE', workers, worker) and 1 or 0)
local status = 'ok'
if known and known ~= endpoint and others > 0 then
  status = 'conflict'
else
  known = endpoint
  -- A worker that waits for its model server does not know the models yet, and one that accepts fewer requests must not lower
  -- the limit of the others. So the lane keeps the offer that another worker, or an earlier beat, has announced. Any client may
  -- have written the hash, so fields may be missing.
  local same = previous[1] == provider and previous[2] == endpoint and previous[3] and previous[4] and previous[5]
  local gives_way = (others > 0 and (not accepts_work or why ~= '')) or (models == '[]' and not accepts_work)
  if same and gives_way then models, limit, offer = unpack(previous, 3, 5) end
  local is_new = accepts_work and redis.call('ZADD', workers, decimal(now), worker) == 1
  redis.call('HSET', state, 'provider', provider, 'endpoint', endpoint, 'models', models, 'limit', limit,
    'offer', offer, 'seen', decimal(now), 'arq', P, 'condition', condition, 'why', why)
  redis.call('ZADD', P .. 'lanes', decimal(now), lane)
  redis.call('ZADD', P .. 'workers', decimal(now), worker)
  if is_new then ring_routers() end
end

-- Only `register` creates this key. If the server does not have it, PEXPIRE returns 0, and the worker registers again.
local facts = P .. 'worker:' .. worker
local registered = redis.call('PEXPIRE', facts, decimal(LEASES_KEPT * lease))
if registered == 1 then
  redis.call('HSET', facts, 'revision', redis.call('HGET', P .. 'policy', 'revision') or '0', 'report', report,
    'condition', condition, 'why', why)
  if error_code ~= '' then
    redis.call('HSET', facts, 'error', error_code, 'error_at', decimal(now - error_age))
  end
end

local function renew_one(id, attempt, client, agent, role, kind, left)
  local request = read_request(id)
  local cancel = request and request.cancel
  if not request then
    cancel = is_unwanted(redis.call('GET', P .. 'unwanted:' .. id), client) and 'cancelled'
    redis.call('HSET', P .. 'request:' .. id,
      'state', 'running', 'role', role, 'queue', '', 'agent', agent, 'client', client, 'kind', kind, 'entry', '',
      'seq', '0', 'created', decimal(now), 'deadline', decimal(now + left), 'attempt', attempt, 'starts', '1', 'crashes', '0',
      'lane', lane, 'worker', worker, 'started', decimal(now))
    redis.call('ZADD', P .. 'deadlines', decimal(now + left), id)
    redis.call('ZADD', P .. 'clients', 'NX', decimal(now), client)
    redis.call('SADD', P .. 'client:' .. client, id)
    redis.call('SADD', P .. 'agent:' .. agent, id)
    redis.call('ZADD', lane_queue(lane, kind), 1, job_of(id, attempt))
    mark_in_progress(job_of(id, attempt))
    if cancel then redis.call('HSET', P .. 'request:' .. id, 'cancel', cancel) end
  elseif request.state ~= 'running' or request.attempt ~= attempt or request.worker ~= worker then
    return 'stale'
  end
  redis.call('ZADD', P .. 'leases', decimal(now + lease), id)
  return cancel or 'mine'
end

local reply = { status, known, lease, registered }
for i = 14, #ARGV, 7 do
  reply[#reply + 1] = renew_one(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5],
    tonumber(ARGV[i + 6]))
end
return reply
