-- A client's beat; and for the streams it has heard nothing of, how they stand. A lease of theirs that is over is reported
-- as to a router: the one that would sweep it may have died with the worker.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 client  2 how many requests it holds, or '' not to be told of others  then ids, at most 128
-- reply {routers that live, lanes that live, {LANE_FACTS of common.lua, then lane_facts of lanes that take no work now}: 8
--       at most of those whose workers are away, seen last first, and 8 of those whose back end is, policy revision, lanes that
--       pull models as {name, JSON: models and how far}, policy's lease ms and patience ms, ids of the client's, if the
--       server knows of more than it holds: 1000 of them at most, lapsed leases of these ids: each as lapsed_attempt of
--       common.lua says, then for each id {state, attempt, worker, end position, error code, owner, ms until its lease
--       lapses or -1}}: state is 'missing' if the server does not know the id; what there is none of is ''

local SOME, MOST_LANES = 1000, 8
local client, held, now = ARGV[1], tonumber(ARGV[2]), now_ms()
begin()
local hold = look(now)
redis.call('ZADD', P .. 'clients', int(now), client)
local routers = redis.call('ZCOUNT', P .. 'routers', int(now - 3000), '+inf')
local lanes = redis.call('ZCOUNT', P .. 'lanes', int(now - rule('lease_ms')), '+inf')
local absent, lease = { LANE_FACTS }, rule('lease_ms')
local function add(names, beating)
  for i = 1, math.min(#names, MOST_LANES) do
    local lane = beats(names[i], now, lease) == beating and lane_facts(names[i], now, lease)
    if lane then absent[#absent + 1] = lane end
  end
end
add(redis.call('ZREVRANGEBYSCORE', P .. 'lanes', '(' .. int(now - rule('lease_ms')), '-inf', 'LIMIT', 0, MOST_LANES), false)
add(redis.call('HKEYS', P .. 'unready'), true)
local pulls = {}
local pulled = redis.call('HGETALL', P .. 'pulls')
for i = 1, #pulled, 2 do
  local beat = tonumber(redis.call('ZSCORE', P .. 'lanes', pulled[i]) or 0)
  if beat > now - rule('lease_ms') then pulls[#pulls + 1] = { pulled[i], pulled[i + 1] } end
end
-- What a restarted server had of requests that ended since, and what was submitted after its client had given it up.
-- Of what the server has learnt from a worker alone the owner may be another.
local strangers, mine = {}, P .. 'client:' .. client
if held and redis.call('SCARD', mine) > held then
  for _, id in ipairs(redis.call('SRANDMEMBER', mine, SOME)) do
    local entry = redis.call('HGET', P .. 'request:' .. id, 'entry')
    if not entry then redis.call('SREM', mine, id) end
    if entry and entry ~= '' then strangers[#strangers + 1] = id end
  end
end

local revision = tonumber(redis.call('HGET', P .. 'policy', 'revision') or 0)
local lapsed = {}
local reply = { routers, lanes, absent, revision, pulls, rule('lease_ms'), rule('patience_ms'), strangers, lapsed }
for i = 3, #ARGV do
  local id, request = ARGV[i], read(ARGV[i])
  local lease = tonumber(redis.call('ZSCORE', P .. 'leases', id) or 0)
  if request and has_lapsed(id, request, hold) then
    lapsed[#lapsed + 1] = lapsed_attempt(id, request)
    request, lease = read(id), 0
  end
  local how = standing(request)
  how[#how + 1] = lease > 0 and math.max(lease, hold) - now or -1
  reply[#reply + 1] = how
end
return reply
