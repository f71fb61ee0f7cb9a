-- A client's beat, and how the requests stand of which it has heard nothing for a while. A lapsed lease of theirs is reported
-- to the client as to a router: the router that would sweep it may have died with the worker.
--
-- uses  leases, lanes
-- KEYS  1 the pool's prefix
-- ARGV  1 client  2 how many requests it holds, or '' if it does not ask for others  then ids, at most 128
-- reply {routers alive, lanes alive, {LANE_FACTS of lanes.lua, then `lane_facts` of lanes that take no work now: of at most 8
--       whose workers are away, the last seen first, and of 8 whose back end is}, policy revision, lanes that pull models as
--       {name, JSON: models and how far}, policy's lease ms and patience ms, the client's ids, at most 1000, if the server
--       knows more than the client holds, lapsed leases of the ids as `lapsed_attempt` of leases.lua returns them,
--       then for each id {what `standing` of base.lua returns, then ms until its lease lapses, or -1}}

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

-- A restarted server may still have requests that ended since, and requests that arrived after their client gave them up.
-- A request that the server has learnt of only from its worker may have another owner.
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
