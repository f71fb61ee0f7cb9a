-- running -> nothing. Forgets a request whose payload the server has lost, after an attempt of it that did not answer it: the
-- server knew it only from the beats of its worker. Its agent, which has a copy, then finds it missing and submits it again.
-- The worker that runs the attempt calls this, or a router or client if the lease has lapsed. If the request was cancelled or its
-- deadline has passed, it becomes cancelled or expired instead.
--
-- uses  leases
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 attempt  3 worker, or '' for a lapsed lease
-- reply 'forgotten' | the state in which the request has ended | 'stale': the worker no longer runs the attempt, the lease has not
--       lapsed, or the server has the payload

local id, attempt, worker = unpack(ARGV, 1, 3)
begin_with_delete()
local request = read_request(id)
if not request then return 'forgotten' end
if request.attempt ~= attempt or request.entry ~= '' then return 'stale' end
if request.state ~= 'running' then return request.state end
local is_allowed = request.worker == worker
if worker == '' then is_allowed = has_lapsed(id, request) end
if not is_allowed then return 'stale' end

local ending = due_ending(request)
if worker == '' then record_lapse(id, request) end
if ending then
  end_early(id, request, ending)
  return ending
end
remove_from_queues(id, request)
remove_from_sets(id, request)
redis.call('DEL', P .. 'request:' .. id)
if redis.call('EXISTS', P .. 'queues') == 1 then ring_routers() end
return 'forgotten'
