-- waiting -> dispatched. Gives one request to one lane and charges its agent one turn.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 queue  3 agent  4 lane  5 model to use there  6 token: new for each decision, so that the same call
--       sent twice is known for one
-- reply {'dispatched', attempt} | {'gone'} it does not wait | {'expired'} its deadline has passed, sweep ends it
--       | {'closed', 'kept', 'full' or 'occupied'}: why the lane does not take it, by gates.lua

local id, queue_name, agent, lane, model, token = unpack(ARGV, 1, 6)
begin()
local request = read(id)
if request and request.token == token then return { 'dispatched', tonumber(request.attempt) } end
if not request or request.state ~= 'waiting' then
  dequeue(id, queue_name, agent)
  return { 'gone' }
end

if tonumber(request.deadline) <= now_ms() then return { 'expired' } end
local why = why_not(lane, id, request)
if why then return { why } end

local job = dispatch_one(id, request, lane, model, token)
redis.call('ZADD', P .. 'leases', int(now_ms() + rule('start_lease_ms')), id)
ring_lane(lane, request.kind, job)
return { 'dispatched', tonumber(request.attempt) }
