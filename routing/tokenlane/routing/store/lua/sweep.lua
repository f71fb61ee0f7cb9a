-- A router's beat, and the sweep. A request becomes waiting if its delay is over, expired if its deadline has passed, and
-- cancelled if its client has vanished; a running request is only flagged. An attempt whose lease has lapsed is reported at
-- every sweep until a router or client has requeued or finished its request. A sweep handles at most 100 requests of each sort.
-- Leases lapse only after the hold, as `update_hold` explains, except for leases that `bury` has set to 0.
--
-- uses  leases
-- KEYS  1 the pool's prefix
-- ARGV  1 router, as host/name  2 '1' to sweep, '0' to ask only for the rank
--       3 policy revision that the router follows, or '' if it stands by
--       4 how many internal errors its process has survived
-- reply {rank from 0, more is due: 0 or 1, lapsed attempts as `lapsed_attempt` in leases.lua returns them, any request waits:
--       0 or 1, any request is dispatched or runs: 0 or 1, ms until the next event for which no doorbell rings or -1, policy
--       revision}; without a sweep {rank, 0, {}, 0, 0, ms within which to ask for the rank again, 0}

local router, sweeping = ARGV[1], ARGV[2] == '1'
local BATCH, KEPT_MS, LANE_KEPT_MS, AUDIT_MS = 100, 6000, 3600000, 5000
local now, lease = now_ms(), policy_rule('lease_ms')

-- A router that is silent for 2 s, or half a lease if that is shorter, loses its rank: this is twice its longest pause. If all
-- routers that sweep die, another one follows within a lease. The first routers of all hosts rank before the second router of
-- any host.
redis.call('ZREMRANGEBYSCORE', P .. 'routers', '-inf', decimal(now - math.max(500, math.min(2000, lease / 2))))
redis.call('ZADD', P .. 'routers', decimal(now), router)
if ARGV[3] ~= '' then redis.call('SET', P .. 'router:' .. router, ARGV[3], 'PX', KEPT_MS) end
if ARGV[4] ~= '0' then redis.call('SET', P .. 'router:' .. router .. ':survived', ARGV[4], 'PX', KEPT_MS) end
local names, on_host, nth, rank = redis.call('ZRANGE', P .. 'routers', 0, -1), {}, {}, 0
table.sort(names)
for _, name in ipairs(names) do
  local host = string.match(name, '^[^/]*')
  on_host[host] = (on_host[host] or 0) + 1
  nth[name] = on_host[host]
end
for _, name in ipairs(names) do
  if nth[name] < nth[router] or (nth[name] == nth[router] and name < router) then rank = rank + 1 end
end
if not sweeping then return { rank, 0, {}, 0, 0, math.floor(math.min(2000, lease / 4)), 0 } end

local swept, hold = P .. 'swept', update_hold(now)
local audited = redis.call('HGET', swept, 'audited')
redis.call('HSET', swept, 'at', decimal(now))
local more, revived, orphaned, lapsed = 0, false, 0, {}

-- The ids in a sorted set whose time has come. by: the time; nil: now.
local function due_ids(key, by)
  local ids = redis.call('ZRANGEBYSCORE', key, '-inf', decimal(by or now), 'LIMIT', 0, BATCH)
  if #ids == BATCH then more = 1 end
  return ids
end

-- Before the hold only the leases lapse that `bury` has set to 0, because their workers cannot renew them.
for _, id in ipairs(due_ids(P .. 'leases', now < hold and 0 or now)) do
  local request = read_request(id)
  if request and (request.state == 'dispatched' or request.state == 'running') then
    lapsed[#lapsed + 1] = lapsed_attempt(id, request)
  else
    redis.call('ZREM', P .. 'leases', id)
  end
end

for _, id in ipairs(due_ids(P .. 'delayed')) do
  redis.call('ZREM', P .. 'delayed', id)
  local request = read_request(id)
  if request and request.state == 'delayed' then
    enqueue(id, request)
    redis.call('HSET', P .. 'request:' .. id, 'state', 'waiting')
    revived = true
  end
end
if revived then ring_routers() end

for _, id in ipairs(due_ids(P .. 'deadlines')) do
  redis.call('ZREM', P .. 'deadlines', id)
  cancel_request(id, 'expired')
end

if now >= hold then
  local gone = redis.call('ZRANGEBYSCORE', P .. 'clients', '-inf', decimal(now - policy_rule('orphan_ms')), 'LIMIT', 0, BATCH)
  if #gone == BATCH then more = 1 end
  for _, client in ipairs(gone) do
    -- Running requests are cancelled last. Otherwise a lane that becomes free would get a waiting request of the same client.
    -- A running request, which is only flagged, leaves the client's set too, because it need not be flagged again.
    local client_ids, running = P .. 'client:' .. client, {}
    local batch = redis.call('SPOP', client_ids, BATCH - orphaned)
    for _, id in ipairs(batch) do
      if redis.call('HGET', P .. 'request:' .. id, 'state') == 'running' then
        running[#running + 1] = id
      else
        cancel_request(id, 'cancelled', 'orphaned')
      end
      orphaned = orphaned + 1
    end
    local none_waits = #running == #batch or redis.call('EXISTS', client_ids) == 0
    for _, id in ipairs(running) do
      if none_waits then
        cancel_request(id, 'cancelled', 'orphaned')
      else
        redis.call('SADD', client_ids, id)
      end
    end
    if redis.call('EXISTS', P .. 'client:' .. client) == 0 then redis.call('ZREM', P .. 'clients', client) end
    if orphaned == BATCH then
      more = 1
      break
    end
  end
end

redis.call('ZREMRANGEBYSCORE', P .. 'workers', '-inf', decimal(now - LEASES_KEPT * policy_rule('lease_ms')))
if not audited or now - tonumber(audited) > AUDIT_MS then
  redis.call('HSET', swept, 'audited', decimal(now))
  for _, lane in ipairs(redis.call('ZRANGEBYSCORE', P .. 'lanes', '-inf', decimal(now - LANE_KEPT_MS))) do
    redis.call('DEL', P .. 'lane:' .. lane .. ':state', P .. 'lane:' .. lane .. ':workers')
    redis.call('ZREM', P .. 'lanes', lane)
  end
  -- Drop the jobs of attempts that are over. They would occupy slots of the lane forever.
  for _, lane in ipairs(redis.call('ZRANGE', P .. 'lanes', 0, -1)) do
    for _, kind in ipairs(KINDS) do
      local jobs = lane_queue(lane, kind)
      for _, job in ipairs(redis.call('ZRANGE', jobs, 0, -1)) do
        local id, attempt = attempt_of(job)
        local request = id and read_request(id)
        local live = request and request.attempt == attempt
          and (request.state == 'dispatched' or request.state == 'running')
        if not live then drop_job(jobs, job) end
      end
    end
  end
end

-- The lowest score in a sorted set; infinity if the set is empty.
local function lowest(key)
  return tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2] or math.huge)
end

-- The ends of leases are no such events: while there are leases, routers sweep often.
local waits, runs = redis.call('EXISTS', P .. 'queues'), redis.call('EXISTS', P .. 'leases')
local client_vanishes = math.max(lowest(P .. 'clients') + policy_rule('orphan_ms'), hold)
local next_event = math.min(lowest(P .. 'delayed'), lowest(P .. 'deadlines'), client_vanishes)
return { rank, more, lapsed, waits, runs, next_event < math.huge and math.max(0, next_event - now) or -1,
  to_integer(redis.call('HGET', P .. 'policy', 'revision')) }
