-- A router's beat, and the sweep. Requests whose delay is over -> waiting; whose deadline has passed -> expired; whose client
-- has vanished -> cancelled. Attempts whose lease has lapsed are reported at every sweep until somebody has requeued or
-- finished their requests. A sweep handles at most 100 of each. `look` determines when leases may lapse; leases that `bury`
-- has set to 0 lapse at once.
--
-- uses  leases
-- KEYS  1 the pool's prefix
-- ARGV  1 router, as host/name  2 '1' to sweep, '0' to ask only for the rank
--       3 revision of the policy that it follows, '' if it stands by  4 internal errors that its process has survived
-- reply {rank from 0, more is due: 0 or 1, lapsed attempts as `lapsed_attempt` in leases.lua returns them, a request waits:
--       0 or 1, a request runs: 0 or 1, ms until an event for which no doorbell rings or -1, policy revision}

local router, sweeping = ARGV[1], ARGV[2] == '1'
local BATCH, SILENT_MS, LANE_KEPT_MS, AUDIT_MS = 100, 2000, 3600000, 5000
local now = now_ms()

-- A router that is silent for 2 s, twice its longest rest, loses its rank. The first router of each host ranks before any
-- host's second.
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

-- A lease that `bury` has set to 0 lapses even before `hold`, since its worker can no longer renew it.
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
    -- Running requests are cancelled last. Otherwise a lane that becomes free would get a waiting request of the same
    -- client. A running request, which is only flagged, leaves the set as well: it need not be cancelled a second time.
    local held, runs = P .. 'client:' .. client, {}
    local some = redis.call('SPOP', held, BATCH - orphaned)
    for _, id in ipairs(some) do
      if redis.call('HGET', P .. 'request:' .. id, 'state') == 'running' then
        runs[#runs + 1] = id
      else
        cancel_one(id, 'cancelled', 'orphaned')
      end
      orphaned = orphaned + 1
    end
    local last = #runs == #some or redis.call('EXISTS', held) == 0
    for _, id in ipairs(runs) do
      if last then
        cancel_one(id, 'cancelled', 'orphaned')
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
  -- Drop jobs of attempts that are over: they would use up the lane's credit forever.
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

-- Leases are not events here: while there are leases, a request runs, and the router sweeps often.
local waits, runs = redis.call('EXISTS', P .. 'queues'), redis.call('EXISTS', P .. 'leases')
local at = math.min(first(P .. 'delayed'), first(P .. 'deadlines'), math.max(first(P .. 'clients') + rule('orphan_ms'), hold))
return { rank, more, lapsed, waits, runs, at < math.huge and math.max(0, at - now) or -1,
  whole(redis.call('HGET', P .. 'policy', 'revision')) }
