-- waiting -> dispatched. Gives a request to a lane: numbers a new attempt, puts its job into the lane's ARQ queue, charges the
-- agent a turn, and rings the lane's doorbell.
--
-- uses  arq_jobs, agent_fairness, gates
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 queue  3 agent  4 lane  5 model to use
--       6 token: a new value for each decision, by which the script recognises the same call sent twice
-- reply {'dispatched', attempt} | {'gone'}: the request no longer waits in that queue
--       | {'expired'}: its deadline has passed, and `sweep` will end it
--       | {'paused'}: an operator paused the request's role
--       | {'drained'} | {'closed'} | {'reserved'} | {'full'} | {'occupied'}: the gate in gates.lua that the request does not pass

local id, queue_name, agent, lane, model, token = unpack(ARGV, 1, 6)
begin_with_delete()
local request = read_request(id)
if request and request.token == token then return { 'dispatched', tonumber(request.attempt) } end
if not request or request.state ~= 'waiting' or request.queue ~= queue_name then -- another queue has other candidates
  dequeue(id, queue_name, agent)
  return { 'gone' }
end

local now = now_ms()
if tonumber(request.deadline) <= now then return { 'expired' } end
if redis.call('SISMEMBER', P .. 'paused', request.role) == 1 then return { 'paused' } end
local why = blocking_gate(lane, id, request)
if why then return { why } end

local sequence, charge = take_for_lane(id, request, lane)
local attempt = decimal(math.max(tonumber(request.attempt) + 1, now))
redis.call('HSET', P .. 'request:' .. id, 'state', 'dispatched', 'attempt', attempt, 'lane', lane, 'model', model,
  'token', token, 'charge', charge)
if request.suspect then -- nothing else runs on the lane until the end of this attempt
  redis.call('SET', P .. 'lane:' .. lane .. ':alone', id)
  redis.call('HSET', P .. 'request:' .. id, 'alone', '1')
end
local job = job_of(id, attempt)
redis.call('SET', P .. 'arq:job:' .. job,
  '{"t":null,"f":"run_request","a":["' .. id .. '",' .. attempt .. '],"k":{},"et":' .. decimal(now) .. '}', 'PX', JOB_KEPT_MS)
redis.call('ZADD', lane_queue(lane, request.kind), sequence, job)
redis.call('ZADD', P .. 'leases', decimal(now + policy_rule('start_lease_ms')), id)
redis.call('PUBLISH', CHANNEL .. 'doorbell:' .. lane .. (SUFFIXES[request.kind] or ':' .. request.kind), job)
return { 'dispatched', tonumber(attempt) }
