-- Reads all lanes at one moment, for agents: unlike `survey`, it reads no requests.
--
-- uses  lanes
-- KEYS  1 the pool's prefix
-- reply {LANE_FACTS of lanes.lua, then the values of `lane_facts` for each lane}

local now, lease, lanes = now_ms(), policy_rule('lease_ms'), { LANE_FACTS }
for _, name in ipairs(redis.call('ZRANGE', P .. 'lanes', 0, -1)) do lanes[#lanes + 1] = lane_facts(name, now, lease) end
return lanes
