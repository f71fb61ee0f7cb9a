-- dispatched -> running. Claims an attempt for the first worker that calls this. If the deadline has passed, the request
-- becomes expired instead; if its entry was deleted from the role's stream, it becomes failed.
--
-- uses  ending
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 attempt  3 worker
-- reply {'run', attempt, envelope, payload, model, number of starts including this, ms to the deadline, ms from submit to this
--       start, cancelled: 0 or 1, queue in which the request waited}
--       | {'gone'}: the attempt is over, or another worker has claimed it

local id, attempt, worker = unpack(ARGV, 1, 3)
begin_with_delete()
local request = read_request(id)
if not request or request.attempt ~= attempt or request.entry == '' then return { 'gone' } end
local is_repeated = request.state == 'running' and request.worker == worker
if request.state ~= 'dispatched' and not is_repeated then return { 'gone' } end

local now = now_ms()
local left = tonumber(request.deadline) - now
if left <= 0 and not is_repeated then
  end_early(id, request, 'expired')
  return { 'gone' }
end
local entries = redis.call('XRANGE', P .. 'role:' .. request.role, request.entry, request.entry)
if #entries == 0 then
  local code = 'entry_deleted' -- contract/errors.py has the message
  local message = { v = 1, type = 'failed', attempt = tonumber(attempt), error = { code = code } }
  end_request(id, request, 'failed', cjson.encode(message), code)
  return { 'gone' }
end
local fields = {}
for i = 1, #entries[1][2], 2 do fields[entries[1][2][i]] = entries[1][2][i + 1] end

if not is_repeated then
  request.starts = decimal(tonumber(request.starts) + 1)
  request.started = decimal(now)
  redis.call('HSET', P .. 'request:' .. id, 'state', 'running', 'worker', worker, 'started', request.started,
    'starts', request.starts)
end
mark_in_progress(job_of(id, attempt))
redis.call('ZADD', P .. 'leases', decimal(now + policy_rule('lease_ms')), id)
return { 'run', tonumber(attempt), fields.envelope, fields.payload, request.model, tonumber(request.starts), left,
  tonumber(request.started) - tonumber(request.created), request.cancel and 1 or 0, request.queue }
