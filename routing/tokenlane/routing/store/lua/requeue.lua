-- dispatched, running -> waiting or delayed. Ends the attempt, gives the agent its turn back, and puts the request into a queue
-- again, before later requests of its agent. If the request was cancelled or its deadline has passed, it becomes cancelled or
-- expired instead. The worker that runs the attempt calls this, or a router or client if the lease has lapsed.
--
-- uses  leases, rates, retry_budget
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 attempt  3 worker, or '' for a lapsed lease  4 queue in which the request waits from now on, or '' for the same
--       5 ms for which the request is delayed before it waits, or 0
--       6 '1' if the attempt counts as a start; '0' if it never reached its model server
--       7 '1' to make the request a suspect, which from now on runs alone on its lane; '0' otherwise
--       8 optional: why the attempt ended, a code without text; '' for an attempt that no worker started in time, and for one
--       whose worker is lost
--       9 optional: take the retry from the pool's retry budget, and delay it for that by at most this many ms; '' if not
--       10 optional: the trace context of the attempt's span, to which the next attempt links its own
-- reply the request's new state | 'stale': the worker no longer runs the attempt, or the lease has not lapsed
--       | 'spent': the retry budget allows no retry within that time; the request is unchanged
--       | 'lost': the server has lost the request or its payload, so the request cannot run again. A beat of its worker would
--       restore a lost request, so the worker calls `forget`.

local MOST_KEPT = 16

-- The request's history of attempts with the one that ends now, without the oldest if there are more than 16.
local function with_attempt(request, now, code)
  local attempts = {}
  for attempt in string.gmatch(request.history or '', '[^\n]+') do attempts[#attempts + 1] = attempt end
  local is_started = request.state == 'running'
  if code == '' then code = is_started and 'worker_lost' or 'not_started' end
  attempts[#attempts + 1] = cjson.encode({ request.attempt, request.lane or '', request.model or '',
    is_started and request.started or '', decimal(now), code })
  return table.concat(attempts, '\n', math.max(1, #attempts - MOST_KEPT + 1))
end

local id, attempt, worker, queue, due_ms = unpack(ARGV, 1, 5)
local is_over_budget = false
begin_with_delete()
local request = read_request(id)
if not request then return worker == '' and 'stale' or 'lost' end
if request.attempt ~= attempt then return 'stale' end
if request.requeued == attempt then return request.state end
local key, now, ending = P .. 'request:' .. id, now_ms(), due_ending(request)
local is_allowed = request.state == 'dispatched' or (request.state == 'running' and request.worker == worker)
if worker == '' then is_allowed = has_lapsed(id, request) end
if not is_allowed then return 'stale' end
if request.entry == '' and not ending then return 'lost' end
if (ARGV[9] or '') ~= '' and not ending then
  local delay_ms = take_retry(request.lane, request.kind, tonumber(ARGV[9]))
  if not delay_ms then return 'spent' end
  is_over_budget = delay_ms > tonumber(due_ms)
  due_ms = math.max(tonumber(due_ms), delay_ms)
end

if worker == '' then record_lapse(id, request) end
if request.state == 'running' and ARGV[6] == '0' then redis.call('HINCRBY', key, 'starts', -1) end
request.history = with_attempt(request, now, ARGV[8] or '')
redis.call('HSET', key, 'requeued', attempt, 'history', request.history)
if ending then
  end_early(id, request, ending)
  return ending
end
count_event(request, worker == '' and request.state == 'running' and 'recovered' or 'retried', now)
remove_from_queues(id, request)
refund(request)
redis.call('HDEL', key, 'token', 'charge', 'alone', 'worker', 'delayed_by', 'span')
if (ARGV[10] or '') ~= '' then redis.call('HSET', key, 'span', ARGV[10]) end
if is_over_budget then redis.call('HSET', key, 'delayed_by', 'budget') end
if queue ~= '' then request.queue = queue end
redis.call('HSET', key, 'queue', request.queue)
if ARGV[7] == '1' then redis.call('HSET', key, 'suspect', '1') end
if tonumber(due_ms) > 0 then
  redis.call('ZADD', P .. 'delayed', decimal(now + due_ms), id)
  redis.call('HSET', key, 'state', 'delayed')
  return 'delayed'
end
enqueue(id, request)
redis.call('HSET', key, 'state', 'waiting')
ring_routers()
return 'waiting'
