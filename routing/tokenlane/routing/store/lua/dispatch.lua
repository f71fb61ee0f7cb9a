-- waiting -> dispatched. Gives one request to one lane and charges its agent one turn.
-- waiting -> running, where the router names a worker of the lane: its own, which starts the request at once.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 queue  3 agent  4 lane  5 model to use there  6 token: new for each decision, so that the same call
--       sent twice is known for one  7 worker that starts it, or ''
--       8 where nobody but this worker can have what comes into the queue: the view by which that is so; else ''
--       9 router that says so, in the worker's process; else ''
-- reply {'dispatched', attempt} | what `start` replies | {'gone'} it does not wait | {'expired'} its deadline has passed, sweep ends it
--       | {'closed'} no worker of the lane takes new work | {'full'} no credit

local SHORTCUT_KEPT_S = 60
local id, queue_name, agent, lane, model, token, worker, sole_by, router = unpack(ARGV, 1, 9)
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

if tonumber(request.deadline) <= now_ms() then return { 'expired' } end
local closed = closed_to(lane, id, request)
if closed then return { closed } end

local job = dispatch_one(id, request, lane, model, token)
if worker ~= '' then
  if sole_by ~= '' then
    local cut = cjson.encode({ sole_by, lane, model, worker, router })
    redis.call('SET', P .. 'shortcut:' .. queue_name, cut, 'EX', SHORTCUT_KEPT_S)
  end
  return start_one(id, request, worker)
end
redis.call('ZADD', P .. 'leases', int(now_ms() + rule('start_lease_ms')), id)
ring_lane(lane, request.kind, job)
return { 'dispatched', tonumber(request.attempt) }
