-- What nobody else does: due delays -> waiting; passed deadlines -> expired; what a vanished client holds -> cancelled.
-- Lapsed leases are reported, until the router has requeued or finished them. At most 100 of each kind a call. Sent twice,
-- the second finds less to do.
--
-- What lapses is up to `look`; what a dead worker ran, as `bury` has it, does not wait for that.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 router, as host/name  2 sweep as well: 1, or 0 to ask for the rank only
--       3 policy revision it decides by, '' if it decides nothing  4 internal errors its process has survived
-- reply {rank from 0, more remains: 0 or 1, revived, expired, orphaned, lapsed: each as lapsed_attempt of common.lua says,
--       something waits: 0 or 1, something runs: 0 or 1, ms until something is due of which no doorbell tells, or -1,
--       policy revision}

local router, sweeping = ARGV[1], ARGV[2] == '1'
local BATCH, SILENT_MS, LANE_KEPT_MS, AUDIT_MS = 100, 2000, 3600000, 5000
local now = now_ms()

-- A router silent for 2 s, twice as long as it rests, has no rank; each host's first router comes before any host's second.
redis.call('ZREMRANGEBYSCORE', P .. 'routers', '-inf', int(now - SILENT_MS))
redis.call('ZADD', P .. 'routers', int(now), router)
if ARGV[3] ~= '' then redis.call('SET', P .. 'router:' .. router, ARGV[3], 'PX', 3 * SILENT_MS) end
if ARGV[4] ~= '0' then redis.call('SET', P .. 'router:' .. router .. ':survived', ARGV[4], 'PX', 3 * SILENT_MS) end
local function rank_of(name)
  local names, nth, places = redis.call('ZRANGE', P .. 'routers', 0, -1), {}, {}
  table.sort(names)
  for _, other in ipairs(names) do
    local host = string.match(other, '^([^/]*)') or other
    nth[host] = (nth[host] or 0) + 1
    places[#places + 1] = { nth[host], other }
  end
  table.sort(places, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    return a[2] < b[2]
  end)
  for i, place in ipairs(places) do
    if place[2] == name then return i - 1 end
  end
end
local rank = rank_of(router)
if not sweeping then return { rank, 0, 0, 0, 0, {}, 0, 0, -1, 0 } end

local swept, hold = P .. 'swept', look(now)
local audited = redis.call('HGET', swept, 'audited')
redis.call('HSET', swept, 'at', int(now))
local more, revived, expired, orphaned, lapsed = 0, 0, 0, 0, {}

local function due(key, by)
  local ids = redis.call('ZRANGEBYSCORE', key, '-inf', int(by or now), 'LIMIT', 0, BATCH)
  if #ids == BATCH then more = 1 end
  return ids
end

-- What `bury` has set to 0 lapses also while nothing else does: its worker cannot renew it.
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
    revived = revived + 1
  end
end
if revived > 0 then ring() end

for _, id in ipairs(due(P .. 'deadlines')) do
  redis.call('ZREM', P .. 'deadlines', id)
  if cancel_one(id, 'expired') ~= 'unknown' then expired = expired + 1 end
end

if now >= hold then
  local gone = redis.call('ZRANGEBYSCORE', P .. 'clients', '-inf', int(now - rule('orphan_ms')), 'LIMIT', 0, BATCH)
  if #gone == BATCH then more = 1 end
  for _, client in ipairs(gone) do
    -- What runs comes last: a lane that is free again would be given what waits for nobody. What is only flagged leaves
    -- the set too: it needs no second cancelling, and must not be in the way of others.
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
        local id, attempt = string.match(job, '}(.+):(%d+)$')
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

-- A lease needs no place here: where there is one, something runs.
local waits, runs = redis.call('EXISTS', P .. 'queues'), redis.call('EXISTS', P .. 'leases')
local at = math.min(first(P .. 'delayed'), first(P .. 'deadlines'), math.max(first(P .. 'clients') + rule('orphan_ms'), hold))
return { rank, more, revived, expired, orphaned, lapsed, waits, runs, at < math.huge and math.max(0, at - now) or -1,
  whole(redis.call('HGET', P .. 'policy', 'revision')) }
