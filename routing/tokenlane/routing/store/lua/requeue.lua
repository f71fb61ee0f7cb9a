-- dispatched, running -> waiting or delayed: the attempt is over and the request is not. It waits first among its agent's,
-- which is not charged. Cancelled or expired if it was to be. By the worker that has the attempt, or by whoever finds its
-- lease over.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 attempt  3 worker, '': its lease is over  4 queue it waits in from now on, '' for the same
--       5 wait that long before, ms  6 '0': the attempt never reached its back end, and counts as none of the request's starts
--       7 '1': it is a suspect, and runs alone on its lane from now on
-- reply the state it is in now | 'stale': the attempt is not the worker's, or its lease not over
--       | 'lost': the server has forgotten what it was, and nobody can run it again

local id, attempt, worker, queue, due_ms = unpack(ARGV, 1, 5)
begin()
local request = read(id)
if not request or request.attempt ~= attempt then return 'stale' end
if request.requeued == attempt then return request.state end
local key, now, ending = P .. 'request:' .. id, now_ms(), due_ending(request)
local has = request.state == 'dispatched' or (request.state == 'running' and request.worker == worker)
if worker == '' then has = has_lapsed(id, request) end
if not has then return 'stale' end
if request.entry == '' and not ending then return 'lost' end

if worker == '' then note_lapse(id, request) end
if request.state == 'running' and ARGV[6] == '0' then redis.call('HINCRBY', key, 'starts', -1) end
redis.call('HSET', key, 'requeued', attempt)
if ending then
  end_one(id, request, ending, brief(ending, request))
  return ending
end
remove(id, request)
refund(request)
redis.call('HDEL', key, 'token', 'charge', 'alone', 'worker')
if queue ~= '' then request.queue = queue end
redis.call('HSET', key, 'queue', request.queue)
if ARGV[7] == '1' then redis.call('HSET', key, 'suspect', '1') end
if tonumber(due_ms) > 0 then
  redis.call('ZADD', P .. 'delayed', int(now + due_ms), id)
  redis.call('HSET', key, 'state', 'delayed')
  return 'delayed'
end
enqueue(id, request)
redis.call('HSET', key, 'state', 'waiting')
ring()
return 'waiting'
