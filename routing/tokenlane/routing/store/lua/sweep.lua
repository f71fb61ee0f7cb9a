-- A router's beat and its round: due delays -> waiting; passed deadlines -> expired; requests of a vanished client ->
-- cancelled. Lapsed leases are reported, until a router has requeued or finished their requests. At most 100 of each kind a
-- call. `look` decides from when leases may lapse; those that `bury` has set to 0 do not wait for that.
--
-- uses  leases
-- KEYS  1 the pool's prefix
-- ARGV  1 router, as host/name  2 '1' to sweep, '0' to ask only for the rank
--       3 policy revision it decides by, '' if it decides nothing  4 internal errors that its process has survived
-- reply {rank from 0, more is due: 0 or 1, lapsed attempts as `lapsed_attempt` of leases.lua returns them, something waits:
--       0 or 1, something runs: 0 or 1, ms until something is due that no doorbell announces, or -1, policy revision}

local router, sweeping = ARGV[1], ARGV[2] == '1'
local BATCH, SILENT_MS, LANE_KEPT_MS, AUDIT_MS = 100, 2000, 3600000, 5000
local now = now_ms()

-- A router silent for 2 s, twice its longest rest, has no rank. Each host's first router comes before any host's second.
redis.call('ZREMRANGEBYSCORE', P .. 'routers', '-inf', int(now - SILENT_MS))
redis.call('ZADD', P .. 'routers', int(now), router)
if ARGV[3] ~= '' then redis.call('SET', P .. 'router:' .. router, ARGV[3], 'PX', 3 * SILENT_MS) end
if ARGV[4] ~= '0' then redis.call('SET', P .. 'router:' .. router .. ':survived', ARGV[4], 'PX', 3 * SILENT_MS) end
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
if not sweeping then return { rank, 0, {}, 0, 0, -1, 0 } end

local swept, hold = P .. 'swept', look(now)
local audited = redis.call('HGET', swept, 'audited')
redis.call('HSET', swept, 'at', int(now))
local more, revived, orphaned, lapsed = 0, false, 0, {}

local function due(key, by)
  local ids = redis.call('ZRANGEBYSCORE', key, '-inf', int(by or now), 'LIMIT', 0, BATCH)
  if #ids == BATCH then more = 1 end
  return ids
end

-- A lease that `bury` has set to 0 lapses even while no other may: its worker cannot renew it.
for _, id in ipairs(due(P .. 'leases', now < hold and 0 or now)) do
  local request = read(id)
  if request and (request.state == 'dispatched' or request.state == 'running') then
    lapsed[#lapsed + 1] = lapsed_attempt(id, request)
  else
    redis.call('ZREM', P .. 'leases', id)
  end
end

for _, id in ipairs(due(P .. 'delayed')) do
  redis.call('ZREM', P .. 'delayed', id)
  local request = read(id)
  if request and request.state == 'delayed' then
    enqueue(id, request)
    redis.call('HSET', P .. 'request:' .. id, 'state', 'waiting')
    revived = true
  end
end
if revived then ring() end

for _, id in ipairs(due(P .. 'deadlines')) do
  redis.call('ZREM', P .. 'deadlines', id)
  cancel_one(id, 'expired')
end

if now >= hold then
  local gone = redis.call('ZRANGEBYSCORE', P .. 'clients', '-inf', int(now - rule('orphan_ms')), 'LIMIT', 0, BATCH)
  if #gone == BATCH then more = 1 end
  for _, client in ipairs(gone) do
    -- Running requests come last: a lane that is free again would be given a request that waits for nobody. A request that
    -- is only flagged leaves the set too: it needs no second cancelling, and must not be in the way of others.
    local held, runs = P .. 'client:' .. client, {}
    local some = redis.call('SPOP', held, BATCH - orphaned)
    for _, id in ipairs(some) do
      if redis.call('HGET', P .. 'request:' .. id, 'state') == 'running' then
        runs[#runs + 1] = id
      else
        cancel_one(id, 'cancelled')
      end
      orphaned = orphaned + 1
    end
    local last = #runs == #some or redis.call('EXISTS', held) == 0
    for _, id in ipairs(runs) do
      if last then
        cancel_one(id, 'cancelled')
      else
        redis.call('SADD', held, id)
      end
    end
    if redis.call('EXISTS', P .. 'client:' .. client) == 0 then redis.call('ZREM', P .. 'clients', client) end
    if orphaned == BATCH then
      more = 1
      break
    end
  end
end

redis.call('ZREMRANGEBYSCORE', P .. 'workers', '-inf', int(now - 3 * rule('lease_ms')))
if not audited or now - tonumber(audited) > AUDIT_MS then
  redis.call('HSET', swept, 'audited', int(now))
  for _, lane in ipairs(redis.call('ZRANGEBYSCORE', P .. 'lanes', '-inf', int(now - LANE_KEPT_MS))) do
    redis.call('DEL', P .. 'lane:' .. lane .. ':state', P .. 'lane:' .. lane .. ':workers')
    redis.call('ZREM', P .. 'lanes', lane)
    redis.call('HDEL', P .. 'pulls', lane)
    redis.call('HDEL', P .. 'unready', lane)
  end
  -- Jobs of attempts that are over would hold a lane's credit for ever.
  for _, lane in ipairs(redis.call('ZRANGE', P .. 'lanes', 0, -1)) do
    for _, kind in ipairs(KINDS) do
      local jobs = lane_queue(lane, kind)
      for _, job in ipairs(redis.call('ZRANGE', jobs, 0, -1)) do
        local id, attempt = attempt_of(job)
        local request = id and read(id)
        local live = request and request.attempt == attempt
          and (request.state == 'dispatched' or request.state == 'running')
        if not live then drop_job(jobs, job) end
      end
    end
  end
end

local function first(key)
  return tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2] or math.huge)
end

-- Leases need no place here: while there is one, something runs.
local waits, runs = redis.call('EXISTS', P .. 'queues'), redis.call('EXISTS', P .. 'leases')
local at = math.min(first(P .. 'delayed'), first(P .. 'deadlines'), math.max(first(P .. 'clients') + rule('orphan_ms'), hold))
return { rank, more, lapsed, waits, runs, at < math.huge and math.max(0, at - now) or -1,
  whole(redis.call('HGET', P .. 'policy', 'revision')) }
