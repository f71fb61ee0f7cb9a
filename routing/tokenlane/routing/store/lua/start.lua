-- dispatched -> running. Claims an attempt for the first worker that calls this. If the deadline has passed, the request
-- becomes expired instead; if its entry was deleted from the role's stream, it becomes failed.
--
-- uses  ending
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 attempt  3 worker
-- reply {'run', attempt, envelope, payload, model, number of starts including this, ms to the deadline, ms from submit to this
--       start, cancelled: 0 or 1, queue in which the request waited, ms for which it waited before this start, ms from
--       dispatch to this start, attempt before, the prompt plugin as JSON, or ''}
--       attempt before: {} if there was none, else {attempt, lane, model, ms from its start to this start or -1 if it never
--       started, why it ended, its trace context or ''}
--       prompt plugin: what the policy had for the role at the request's first start, so that an answer is continued with the
--       prompt with which it began
--       | {'gone'}: the attempt is over, or another worker has claimed it

-- How long the request waited before this start, in ms, and the attempt before this one.
local function wait_and_attempt_before(request)
  local started, newest = tonumber(request.started), string.match(request.history or '', '[^\n]+$')
  if not newest then return started - tonumber(request.created), {} end
  local number, lane, model, began, ended, code = unpack(cjson.decode(newest))
  local ms = tonumber(began) and started - tonumber(began) or -1
  return started - tonumber(ended), { tonumber(number), lane, model, ms, code, request.span or '' }
end

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
  request.prompt = request.prompt or redis.call('HGET', P .. 'policy', 'prompt:' .. request.role) or ''
  redis.call('HSET', P .. 'request:' .. id, 'state', 'running', 'worker', worker, 'started', request.started,
    'starts', request.starts, 'prompt', request.prompt)
end
mark_in_progress(job_of(id, attempt))
redis.call('ZADD', P .. 'leases', decimal(now + policy_rule('lease_ms')), id)
local waited, before = wait_and_attempt_before(request)
return { 'run', tonumber(attempt), fields.envelope, fields.payload, request.model, tonumber(request.starts), left,
  tonumber(request.started) - tonumber(request.created), request.cancel and 1 or 0, request.queue, waited,
  math.max(0, tonumber(request.started) - tonumber(attempt)), before,
  request.prompt or '' }
