-- dispatched -> running, by the one worker that starts this attempt.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 attempt  3 worker  4 the worker has ARQ's mark on the job already: 1 or 0
-- reply {'run', attempt, envelope, payload, model, starts, ms to the deadline, ms waited, cancelled: 0 or 1} | {'gone'}
--       starts: how often the request has been started, this time included

local id, attempt, worker, marked = unpack(ARGV, 1, 4)
begin()
local request = read(id)
if not request or request.attempt ~= attempt or request.entry == '' then return { 'gone' } end
local again = request.state == 'running' and request.worker == worker
if request.state ~= 'dispatched' and not again then return { 'gone' } end
-- Where ARQ's own worker has marked the job, it is about to start it.
if not again and marked == '0' and redis.call('EXISTS', P .. 'arq:in-progress:' .. TAG .. id .. ':' .. attempt) == 1 then
  return { 'gone' }
end
return start_one(id, request, worker)
