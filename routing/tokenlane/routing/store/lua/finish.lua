-- Ends a request. Who may end it, and how, depends on its state:
-- running -> completed, failed, cancelled, expired: the worker that runs the newest attempt, once it has closed the model
--   server's stream.
-- waiting, delayed -> failed: a router, if no lane can run the request, and no attempt has begun since the router decided that.
-- dispatched, running -> failed: a router or client, if the lease has lapsed. If the request was cancelled or its deadline has
--   passed, it becomes cancelled or expired instead, and the reply is 'stale'.
--
-- uses  leases, retry_budget, kept_payloads
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 newest attempt  3 worker or ''  4 'completed', 'failed', 'cancelled' or 'expired'
--       5 end position: how many deltas the answer has  6 error code or ''  7 last message to the agent, JSON
--       8 optional: '' if no lane can run the request, which is then no lane's fault; without it, the request's lane failed
-- reply 'done' | 'missed', for a worker only: the same, but nobody received the last message, or that is not known
--       | 'stale': the worker no longer runs the attempt, or the caller may not end a request in this state
--       | 'unknown', for a worker only: the server has lost the request; the worker's next beat restores it

local id, attempt, worker, ending = unpack(ARGV, 1, 4)
local keeps = ending == 'failed' and may_keep_payload()
begin_with_delete()
local request = read_request(id)
if not request then return worker == '' and 'stale' or 'unknown' end
if worker == '' then
  if request.state == ending and request.code == ARGV[6] then return 'done' end
  if request.attempt ~= attempt then return 'stale' end
  local refused = ARGV[8] ~= nil
  local lapsed = not refused and has_lapsed(id, request)
  local waits = refused and (request.state == 'waiting' or request.state == 'delayed')
  if not (waits or lapsed) then return 'stale' end
  if lapsed and ended_after_lapse(id, request) then return 'stale' end
  if lapsed then record_lapse(id, request) end
else
  if request.attempt ~= attempt or request.worker ~= worker then return 'stale' end
  if request.state == ending then return 'missed' end
  if request.state ~= 'running' then return 'stale' end
end
local reply = 'done'
if ending == 'cancelled' and (request.code or '') ~= '' then
  end_early(id, request, ending) -- with the code that `cancel_request` stored, which the worker does not know
else
  keeps = keeps and keep_payload(id, request)
  local receivers = end_request(id, request, ending, ARGV[7], ARGV[6], ARGV[8])
  if receivers == 0 and worker ~= '' then reply = 'missed' end
  if keeps then redis.call('EXPIRE', P .. 'request:' .. id, KEEP_PAYLOAD_S) end
  if ending == 'completed' then repay_budget() end
end
redis.call('HSET', P .. 'request:' .. id, 'end', ARGV[5])
return reply
