-- Reports that a worker's process has ended; its parent process calls this. The leases of the requests that the worker ran
-- lapse at the next sweep, which counts as a crash, and the worker is removed from its lane.
--
-- uses  base
-- KEYS  1 the pool's prefix
-- ARGV  1 worker
-- reply 'ok'

local worker, ran_requests = ARGV[1], false
begin_with_delete()
for _, id in ipairs(redis.call('ZRANGE', P .. 'leases', 0, -1)) do
  local state, ran_by, lane = unpack(redis.call('HMGET', P .. 'request:' .. id, 'state', 'worker', 'lane'))
  if state == 'running' and ran_by == worker then
    redis.call('ZADD', P .. 'leases', 'XX', 0, id) -- a lease of 0 lapses at once
    redis.call('ZREM', P .. 'lane:' .. lane .. ':workers', worker)
    ran_requests = true
  end
end
local lane = redis.call('HGET', P .. 'worker:' .. worker, 'lane')
if lane then redis.call('ZREM', P .. 'lane:' .. lane .. ':workers', worker) end
redis.call('ZREM', P .. 'workers', worker)
redis.call('DEL', P .. 'worker:' .. worker)

-- A lane that has lost its last worker counts as silent for a lease, so that it is gone at once.
local now, lease = now_ms(), policy_rule('lease_ms')
local function has_worker(of_lane)
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', P .. 'workers', decimal(now - lease), '+inf')) do
    if redis.call('HGET', P .. 'worker:' .. name, 'lane') == of_lane then return true end
  end
end
local seen = lane and redis.call('ZSCORE', P .. 'lanes', lane)
if seen and not has_worker(lane) then
  seen = decimal(math.min(tonumber(seen), now - lease - 1))
  redis.call('ZADD', P .. 'lanes', seen, lane)
  redis.call('HSET', P .. 'lane:' .. lane .. ':state', 'seen', seen)
end
if ran_requests then ring_routers() end
return 'ok'
