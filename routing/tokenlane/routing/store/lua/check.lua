-- A client's beat. Returns the state of the requests about which the client asks, since it has received nothing from them for a
-- while. Attempts of these requests whose lease has lapsed are reported, so that the client recovers the requests as a router
-- would: the router may have died together with the worker.
--
-- uses  leases, lanes, places
-- KEYS  1 the pool's prefix
-- ARGV  1 client  2 how many requests the client has, or '' if it does not ask for strangers
--       3 ids of the pool's keys, as the client knows them
--       then the ids of the requests about which it asks; callers send at most 128
-- reply {number of live routers, number of lanes that the server knows, policy revision, policy's lease ms, policy's patience ms,
--       strangers, lapsed attempts, lanes, paused roles, then for each id {the values of `status_of` in base.lua, ms until the
--       lease lapses or -1 if there is no lease, what `wait_of` in places.lua returns}}
--       lanes: LANE_FACTS of lanes.lua, then the values of `lane_facts` for each lane, the newest beat first, at most 64; {} if
--       none of the requests waits. paused roles: those that an operator paused; {} if none of the requests waits
--       strangers: ids of requests of this client, at most 1000, if the server has more of them than the client
--       lapsed attempts: as `lapsed_attempt` in leases.lua returns them

local MOST_STRANGERS, MOST_LANES = 1000, 64
local client, held, now, lease_ms = ARGV[1], tonumber(ARGV[2]), now_ms(), policy_rule('lease_ms')
begin_with_delete()
restore_keys(ARGV[3])
local hold = update_hold(now)
redis.call('ZADD', P .. 'clients', decimal(now), client)
local routers = redis.call('ZCOUNT', P .. 'routers', decimal(now - 3000), '+inf')

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

-- Only a client whose requests wait needs the lanes, since they explain why.
local function facts_of_lanes()
  local lanes = { LANE_FACTS }
  for _, name in ipairs(redis.call('ZREVRANGE', P .. 'lanes', 0, MOST_LANES - 1)) do
    lanes[#lanes + 1] = lane_facts(name, now, lease_ms)
  end
  return lanes
end

local queues, lapsed, statuses, lanes, paused = {}, {}, {}, {}, {}
for i = 4, #ARGV do
  local id, request = ARGV[i], read_request(ARGV[i])
  local lease = tonumber(redis.call('ZSCORE', P .. 'leases', id) or 0)
  if request and has_lapsed(id, request, hold) then
    lapsed[#lapsed + 1] = lapsed_attempt(id, request)
    request, lease = read_request(id), 0
  end
  local status, wait = status_of(request), wait_of(id, request, now, queues)
  status[#status + 1] = lease > 0 and math.max(lease, hold) - now or -1
  status[#status + 1] = wait
  statuses[#statuses + 1] = status
  if #wait > 0 and #lanes == 0 then lanes, paused = facts_of_lanes(), redis.call('SMEMBERS', P .. 'paused') end
end
local revision = tonumber(redis.call('HGET', P .. 'policy', 'revision') or 0)
return { routers, redis.call('ZCARD', P .. 'lanes'), revision, lease_ms, policy_rule('patience_ms'), strangers, lapsed, lanes,
  paused, unpack(statuses) }
