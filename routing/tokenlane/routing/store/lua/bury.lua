-- Called by the parent of a worker's process when that process has ended: at the next sweep the leases of the worker's
-- running requests lapse, which counts as a crash.
--
-- uses  base
-- KEYS  1 the pool's prefix
-- ARGV  1 worker
-- reply 'ok'

local worker, ran = ARGV[1], false
begin()
for _, id in ipairs(redis.call('ZRANGE', P .. 'leases', 0, -1)) do
  local state, ran_by, lane = unpack(redis.call('HMGET', P .. 'request:' .. id, 'state', 'worker', 'lane'))
  if state == 'running' and ran_by == worker then
    redis.call('ZADD', P .. 'leases', 'XX', 0, id) -- a lease of 0 has always lapsed
    redis.call('ZREM', P .. 'lane:' .. lane .. ':workers', worker)
    ran = true
  end
end
local lane = redis.call('HGET', P .. 'worker:' .. worker, 'lane')
if lane then redis.call('ZREM', P .. 'lane:' .. lane .. ':workers', worker) end
redis.call('ZREM', P .. 'workers', worker)
redis.call('DEL', P .. 'worker:' .. worker)
if ran then ring() end
return 'ok'
