-- Stops new work at a lane, or of a role, until an operator resumes it; or resumes it. Requests that run go on.
--
-- uses  base
-- KEYS  1 the pool's prefix
-- ARGV  1 'drained', the set of lanes, or 'paused', the set of roles  2 lane or role  3 'stop' | 'resume'
-- reply 1 if the set has changed | 0 if the work had already been stopped or resumed

begin_with_delete()
if ARGV[3] == 'stop' then return redis.call('SADD', P .. ARGV[1], ARGV[2]) end
local changed = redis.call('SREM', P .. ARGV[1], ARGV[2])
ring_routers()
return changed
