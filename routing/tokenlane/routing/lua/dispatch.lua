-- waiting -> dispatched. Gives one request to one lane and charges its agent one turn.
-- waiting -> running, where the router names a worker of the lane: its own, which starts the request at once.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 queue  3 agent  4 lane  5 model to use there  6 token: new for each decision, so that the same call
--       sent twice is known for one  7 worker that starts it, or ''
-- reply {'dispatched', attempt} | what `start` replies | {'gone'} it does not wait | {'expired'} its deadline has passed, sweep ends it
--       | {'closed'} no worker of the lane takes new work | {'full'} no credit

local id, queue_name, agent, lane, model, token, worker = unpack(ARGV, 1, 7)
begin()
local request = read(id)
if request and request.token == token then
  if request.state == 'running' and request.worker == worker then return start_one(id, request, worker) end
  return { 'dispatched', tonumber(request.attempt) }
end
if not request or request.state ~= 'waiting' then
  dequeue(id, queue_name, agent)
  return { 'gone' }
end

local now = now_ms()
if tonumber(request.deadline) <= now then return { 'expired' } end
local limit = lane_limit(lane, request.kind)
local alive = redis.call('ZCOUNT', P .. 'lane:' .. lane .. ':workers', int(now - rule('lease_ms')), '+inf')
if limit == 0 or alive == 0 then return { 'closed' } end
local jobs = lane_queue(lane, request.kind)
if redis.call('ZCARD', jobs) >= limit then return { 'full' } end

local queue = P .. 'queue:' .. request.queue
local start_tag = tonumber(redis.call('ZSCORE', queue .. ':agents', request.agent) or tag(queue, request.agent))
local attempt = int(math.max(tonumber(request.attempt) + 1, now))

local busy = redis.call('ZCARD', queue .. ':agents') > 1 or redis.call('ZCARD', queue .. ':agent:' .. request.agent) > 1
dequeue(id, request.queue, request.agent)
local sequence = int(redis.call('INCR', P .. 'sequence'))
if busy then
  local clock = math.max(start_tag, tonumber(redis.call('HGET', queue .. ':clock', 'clock') or 0))
  redis.call('ZADD', queue .. ':paid', start_tag + 1, request.agent)
  redis.call('ZREMRANGEBYSCORE', queue .. ':paid', '-inf', clock)
  redis.call('HSET', queue .. ':clock', 'clock', clock, 'served', sequence)
  redis.call('ZADD', queue .. ':agents', 'XX', start_tag + 1, request.agent)
end
redis.call('HSET', P .. 'request:' .. id, 'state', 'dispatched', 'attempt', attempt, 'lane', lane, 'model', model,
  'token', token, 'charge', busy and '1' or '0')
local job = TAG .. id .. ':' .. attempt
redis.call('SET', 'arq:job:' .. job,
  '{"t":null,"f":"run_request","a":["' .. id .. '",' .. attempt .. '],"k":{},"et":' .. int(now) .. '}', 'PX', JOB_KEPT_MS)
redis.call('ZADD', jobs, sequence, job)
if worker ~= '' then
  request.state, request.attempt, request.lane, request.model = 'dispatched', attempt, lane, model
  return start_one(id, request, worker)
end
redis.call('ZADD', P .. 'leases', int(now + rule('start_lease_ms')), id)
redis.call('PUBLISH', CHANNEL .. 'doorbell:' .. lane .. (request.kind == 'chat' and '' or ':' .. request.kind), job)
return { 'dispatched', tonumber(attempt) }
