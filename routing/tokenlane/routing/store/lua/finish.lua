-- Ends a request.
-- running -> completed, failed, cancelled, expired: by its worker, for the newest attempt, once the HTTP stream is closed.
-- waiting, delayed -> failed: by a router, without worker and attempt, if no lane can serve the request.
-- waiting, delayed, dispatched -> failed: by the client that owns it, if the client already has part of a lost answer.
-- dispatched, running -> failed: by a router or client, if the lease has lapsed. The request becomes cancelled or expired
--   instead if it was cancelled or its deadline has passed.
--
-- uses  leases
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 attempt or ''  3 worker or ''  4 ending  5 end position  6 error code or ''  7 message to the agent, JSON
--       8 client that owns the request and fails it, or ''
--       9 lane that failed, '' if that is not known; missing: the request's lane
-- reply 'done' | 'stale': the worker no longer runs the attempt, or the request is in another state
--       | 'unknown': the server has lost the request; the worker's next beat restores it

local id, attempt, worker, ending = unpack(ARGV, 1, 4)
begin()
local request = read(id)
if not request then return worker == '' and 'stale' or 'unknown' end
if worker == '' then
  if request.state == ending and request.code == ARGV[6] then return 'done' end
  local owns = ARGV[8] ~= '' and request.client == ARGV[8] and request.attempt == attempt
  if ARGV[8] ~= '' and not owns then return 'stale' end
  local lapsed = request.attempt == attempt and has_lapsed(id, request)
  local waits = request.state == 'waiting' or request.state == 'delayed' or (owns and request.state == 'dispatched')
  if not (waits or lapsed) then return 'stale' end
  if lapsed and ended_after_lapse(id, request) then return 'stale' end
  if lapsed then note_lapse(id, request) end
else
  if request.attempt ~= attempt or request.worker ~= worker then return 'stale' end
  if request.state == ending then return 'done' end
  if request.state ~= 'running' then return 'stale' end
end
if ending == 'cancelled' and (request.code or '') ~= '' then
  end_as(id, request, ending) -- the worker does not know the cause
else
  end_with(id, request, ending, ARGV[7], ARGV[6], ARGV[9])
end
redis.call('HSET', P .. 'request:' .. id, 'end', ARGV[5])
return 'done'
