-- A client's beat. Returns the state of the requests from which the client has received nothing for a while. If a lease of
-- theirs has lapsed, the client recovers the request as a router would: the router may have died together with the worker.
--
-- uses  leases, lanes
-- KEYS  1 the pool's prefix
-- ARGV  1 client  2 how many requests it holds, or '' if it does not ask for strangers  then ids, at most 128
-- reply {number of live routers, number of live lanes, absent lanes, policy revision, pulls, policy's lease ms, policy's
--       patience ms, strangers, lapsed attempts, then for each id {the fields of `standing` in base.lua, then ms until its
--       lease lapses, or -1 without a lease}}
--       absent lanes: LANE_FACTS of lanes.lua, then `lane_facts` for each lane that takes no work now: at most 8 lanes
--       without a live worker, the last seen first, and at most 8 lanes whose model server cannot work
--       pulls: {lane, JSON: its models being pulled, with progress} for each lane that pulls models
--       strangers: ids of the client's requests, at most 1000, if the server knows more of them than the client holds
--       lapsed attempts: as `lapsed_attempt` in leases.lua returns them, for the given ids

local SOME, MOST_LANES = 1000, 8
local client, held, now, lease_ms = ARGV[1], tonumber(ARGV[2]), now_ms(), rule('lease_ms')
begin()
local hold = look(now)
redis.call('ZADD', P .. 'clients', int(now), client)
local routers = redis.call('ZCOUNT', P .. 'routers', int(now - 3000), '+inf')
local lanes = redis.call('ZCOUNT', P .. 'lanes', int(now - lease_ms), '+inf')

local absent, shown = { LANE_FACTS }, {}
local function show(names)
  for i = 1, math.min(#names, MOST_LANES) do
    local lane = not shown[names[i]] and lane_facts(names[i], now, lease_ms)
    if lane then absent[#absent + 1] = lane end
    shown[names[i]] = true
  end
end
show(redis.call('ZREVRANGEBYSCORE', P .. 'lanes', '(' .. int(now - lease_ms), '-inf', 'LIMIT', 0, MOST_LANES))
show(redis.call('HKEYS', P .. 'unready'))

local pulls, flat = {}, redis.call('HGETALL', P .. 'pulls')
for i = 1, #flat, 2 do
  local beat = tonumber(redis.call('ZSCORE', P .. 'lanes', flat[i]) or 0)
  if beat > now - lease_ms then pulls[#pulls + 1] = { flat[i], flat[i + 1] } end
end

-- A restarted server may still hold requests that have ended since then, or that arrived after their client gave them up.
-- A request without an entry is no stranger: the server knows it only from its worker, and its owner may be another client.
local strangers, mine = {}, P .. 'client:' .. client
if held and redis.call('SCARD', mine) > held then
  for _, id in ipairs(redis.call('SRANDMEMBER', mine, SOME)) do
    local entry = redis.call('HGET', P .. 'request:' .. id, 'entry')
    if not entry then redis.call('SREM', mine, id) end
    if entry and entry ~= '' then strangers[#strangers + 1] = id end
  end
end

local revision, lapsed = tonumber(redis.call('HGET', P .. 'policy', 'revision') or 0), {}
local reply = { routers, lanes, absent, revision, pulls, lease_ms, rule('patience_ms'), strangers, lapsed }
for i = 3, #ARGV do
  local id, request = ARGV[i], read(ARGV[i])
  local lease = tonumber(redis.call('ZSCORE', P .. 'leases', id) or 0)
  if request and has_lapsed(id, request, hold) then
    lapsed[#lapsed + 1] = lapsed_attempt(id, request)
    request, lease = read(id), 0
  end
  local stands = standing(request)
  stands[#stands + 1] = lease > 0 and math.max(lease, hold) - now or -1
  reply[#reply + 1] = stands
end
return reply
