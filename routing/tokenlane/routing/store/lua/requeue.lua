-- dispatched, running -> waiting or delayed; cancelled or expired if it was to be. By the worker that has the attempt.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 attempt  3 worker  4 wait that long before, ms
--       5 '0': the attempt never reached its back end, and counts as none of the request's starts
-- reply the state it is in now | 'stale': the attempt is not the worker's

local id, attempt, worker = unpack(ARGV, 1, 3)
begin()
local request = read(id)
if not request or request.attempt ~= attempt then return 'stale' end
if request.requeued == attempt then return request.state end
if request.state == 'dispatched' or (request.state == 'running' and request.worker == worker) then
  if request.state == 'running' and ARGV[5] == '0' then
    redis.call('HINCRBY', P .. 'request:' .. id, 'starts', -1)
  end
  return requeue_one(id, request, tonumber(ARGV[4]))
end
return 'stale'
