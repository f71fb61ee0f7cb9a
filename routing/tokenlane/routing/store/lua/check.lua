-- A client's beat. Returns the state of the requests about which the client asks, since it has received nothing from them for a
-- while. Attempts of these requests whose lease has lapsed are reported, so that the client recovers the requests as a router
-- would: the router may have died together with the worker.
--
-- uses  leases, lanes, places
-- KEYS  1 the pool's prefix
-- ARGV  1 client  2 how many requests the client has, or '' if it does not ask for strangers
--       then the ids of the requests about which it asks; callers send at most 128
-- reply {number of live routers, number of live lanes, absent lanes, policy revision, pulls, policy's lease ms, policy's
--       patience ms, strangers, lapsed attempts, roles that an operator paused, then for each id {the values of `status_of` in base.lua, ms until the lease
--       lapses or -1 if there is no lease, place as `place_of` in places.lua returns it}}
--       absent lanes: LANE_FACTS of lanes.lua, then the values of `lane_facts` for each lane that accepts no work now: at
--       most 8 lanes without a live worker, the last seen first, at most 8 lanes whose model server cannot work, and at most 8
--       lanes that an operator drained
--       pulls: {lane, JSON: the models that the lane is pulling, with progress} for each lane that pulls models
--       strangers: ids of requests of this client, at most 1000, if the server has more of them than the client
--       lapsed attempts: as `lapsed_attempt` in leases.lua returns them

local MOST_STRANGERS, MOST_LANES = 1000, 8
local client, held, now, lease_ms = ARGV[1], tonumber(ARGV[2]), now_ms(), policy_rule('lease_ms')
begin_with_delete()
local hold = update_hold(now)
redis.call('ZADD', P .. 'clients', decimal(now), client)
local routers = redis.call('ZCOUNT', P .. 'routers', decimal(now - 3000), '+inf')
local lanes = redis.call('ZCOUNT', P .. 'lanes', decimal(now - lease_ms), '+inf')

local absent, added = { LANE_FACTS }, {}
local function add_absent(names)
  for i = 1, math.min(#names, MOST_LANES) do
    local lane = not added[names[i]] and lane_facts(names[i], now, lease_ms)
    if lane then absent[#absent + 1] = lane end
    added[names[i]] = true
  end
end
add_absent(redis.call('ZREVRANGEBYSCORE', P .. 'lanes', '(' .. decimal(now - lease_ms), '-inf', 'LIMIT', 0, MOST_LANES))
add_absent(redis.call('HKEYS', P .. 'unready'))
add_absent(redis.call('SMEMBERS', P .. 'drained'))

local pulls, flat = {}, redis.call('HGETALL', P .. 'pulls')
for i = 1, #flat, 2 do
  local beat = tonumber(redis.call('ZSCORE', P .. 'lanes', flat[i]) or 0)
  if beat > now - lease_ms then pulls[#pulls + 1] = { flat[i], flat[i + 1] } end
end

-- A server that was restarted may still have requests that had ended before the restart, or requests that arrived after their
-- client had given them up. A request without an entry in its role's stream is no stranger: the server knows it only from its
-- worker, and another client may own it.
local strangers, own_ids = {}, P .. 'client:' .. client
if held and redis.call('SCARD', own_ids) > held then
  for _, id in ipairs(redis.call('SRANDMEMBER', own_ids, MOST_STRANGERS)) do
    local entry = redis.call('HGET', P .. 'request:' .. id, 'entry')
    if not entry then redis.call('SREM', own_ids, id) end
    if entry and entry ~= '' then strangers[#strangers + 1] = id end
  end
end

local queues = {}
local revision, lapsed = tonumber(redis.call('HGET', P .. 'policy', 'revision') or 0), {}
local reply = { routers, lanes, absent, revision, pulls, lease_ms, policy_rule('patience_ms'), strangers, lapsed,
  redis.call('SMEMBERS', P .. 'paused') }
for i = 3, #ARGV do
  local id, request = ARGV[i], read_request(ARGV[i])
  local lease = tonumber(redis.call('ZSCORE', P .. 'leases', id) or 0)
  if request and has_lapsed(id, request, hold) then
    lapsed[#lapsed + 1] = lapsed_attempt(id, request)
    request, lease = read_request(id), 0
  end
  local status = status_of(request)
  status[#status + 1] = lease > 0 and math.max(lease, hold) - now or -1
  status[#status + 1] = place_of(id, request, queues)
  reply[#reply + 1] = status
end
return reply
