-- dispatched, running -> waiting or delayed. Ends the attempt and puts the request back into a queue, before later requests of
-- its agent, and refunds the agent's turn. If the request was cancelled or its deadline has passed, it becomes cancelled or
-- expired instead. Called by the worker that runs the attempt, or by a router or client if the lease has lapsed.
--
-- uses  leases
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 attempt  3 worker, or '' for a lapsed lease  4 queue in which it waits from now on, or '' for the same queue
--       5 delay before it waits, ms  6 '0' if the attempt does not count as a start, because it never reached its model server
--       7 '1' to make the request a suspect, which from now on runs alone on its lane
-- reply the new state | 'stale': the worker no longer runs the attempt, or the lease has not lapsed
--       | 'lost': the server has lost the payload, so the request cannot run again

local id, attempt, worker, queue, due_ms = unpack(ARGV, 1, 5)
begin()
local request = read(id)
if not request or request.attempt ~= attempt then return 'stale' end
if request.requeued == attempt then return request.state end
local key, now, ending = P .. 'request:' .. id, now_ms(), due_ending(request)
local may = request.state == 'dispatched' or (request.state == 'running' and request.worker == worker)
if worker == '' then may = has_lapsed(id, request) end
if not may then return 'stale' end
if request.entry == '' and not ending then return 'lost' end

if worker == '' then note_lapse(id, request) end
if request.state == 'running' and ARGV[6] == '0' then redis.call('HINCRBY', key, 'starts', -1) end
redis.call('HSET', key, 'requeued', attempt)
if ending then
  end_as(id, request, ending)
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
