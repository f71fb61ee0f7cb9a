-- Counts the live requests of quotas, for operators.
--
-- uses  base
-- KEYS  1 the pool's prefix
-- ARGV  1 name of a quota, then more names
-- reply for each of them, how many requests count against it, which `submit` compares with its limit

local counts = {}
for i, quota in ipairs(ARGV) do counts[i] = redis.call('SCARD', P .. 'agent:' .. quota .. ':quota') end
return counts
