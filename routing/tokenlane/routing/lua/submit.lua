-- nothing -> waiting. Takes a request in, once: a known id changes nothing.
-- nothing -> running, where nothing else waits in the pool and a router has told by `dispatch` whose worker can have it:
-- that is told so by its lane's bell. A bell that is lost costs time: the job is in the lane's queue, without a mark.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 role  3 queue  4 agent  5 client  6 kind  7 time to live, ms  8 floor: newest attempt the agent has seen
--       9 envelope, JSON  10 payload, sealed  11 id of the key it is sealed with, or ''
--       12 hash of the agent's idempotency key, or ''
-- reply {'accepted', policy revision, ids of the pool's keys} | {'full', 'role' or 'agent', retry after ms}
--       | {'key', ids of the pool's keys}: it is sealed with none of them
--       | {'known', policy revision, id, state}: the agent has submitted that idempotency key before

local SHORT_BYTES, CONFIRMED_MS = 262144, 1000
local id, role, queue, agent, client, kind = unpack(ARGV, 1, 6)
local revision = tonumber(redis.call('HGET', P .. 'policy', 'revision') or 0)
local sealed, keys = ARGV[11], redis.call('GET', P .. 'key') or ARGV[11]
if redis.call('EXISTS', P .. 'request:' .. id) == 1 then return { 'accepted', revision, keys } end
if keys ~= '' and not string.find(' ' .. keys .. ' ', ' ' .. sealed .. ' ', 1, true) then return { 'key', keys } end
local once = ARGV[12] ~= '' and agent .. ':' .. ARGV[12]
local known = once and redis.call('GET', P .. 'idem:' .. once)
local state = known and redis.call('HGET', P .. 'request:' .. known, 'state')
if state then return { 'known', revision, known, state } end

local function limit(name) -- the role's own, else the pool's
  return tonumber(redis.call('HGET', P .. 'policy', name .. ':' .. role) or rule(name))
end

local stream = P .. 'role:' .. role
local depth = redis.call('XLEN', stream)
local mean = tonumber(redis.call('HGET', P .. 'drain:' .. role, 'mean') or 1000)
if depth >= limit('depth') then return { 'full', 'role', math.ceil(math.max(mean, 100)) } end
local in_flight = redis.call('SCARD', P .. 'agent:' .. agent)
if in_flight >= limit('in_flight') then return { 'full', 'agent', math.ceil(math.max(mean, 100)) } end

local now = now_ms()
local deadline = now + tonumber(ARGV[7])
local entry = redis.call('XADD', stream, '*', 'envelope', ARGV[9], 'payload', ARGV[10])
-- An attempt before it may have spoken meanwhile: whoever starts it must ask the agent first.
local starts = tonumber(ARGV[8]) > 0 and '1' or '0'
local request = {
  role = role, queue = queue, agent = agent, seq = int(redis.call('INCR', P .. 'sequence')),
}
redis.call('HSET', P .. 'request:' .. id,
  'state', 'waiting', 'role', role, 'queue', queue, 'agent', agent, 'client', client, 'kind', kind, 'entry', entry,
  'key', sealed, 'seq', request.seq, 'created', int(now), 'deadline', int(deadline), 'attempt', ARGV[8], 'starts', starts, 'crashes', '0')
redis.call('ZADD', P .. 'deadlines', int(deadline), id)
redis.call('ZADD', P .. 'clients', int(now), client)
redis.call('SADD', P .. 'client:' .. client, id)
redis.call('SADD', P .. 'agent:' .. agent, id)
if once then
  redis.call('SET', P .. 'idem:' .. once, id)
  redis.call('HSET', P .. 'request:' .. id, 'once', once)
end
enqueue(id, request)
if sealed ~= '' then redis.call('SET', P .. 'key', sealed, 'NX') end -- a server that was wiped
count(request, 'accepted')
local waiting = P .. 'queue:' .. queue
local alone = redis.call('ZCARD', waiting .. ':agents') == 1 and redis.call('ZCARD', waiting .. ':agent:' .. agent) == 1

-- The lane, the model and the worker that have this request without a router; nothing if that is for a router to say.
local function shortcut()
  if not alone or #ARGV[10] > SHORT_BYTES or redis.call('SCARD', P .. 'queues') > 1 then return end
  local known = redis.call('HGET', P .. 'shortcuts', queue)
  if not known then return end
  local by, lane, model, worker = unpack(cjson.decode(known))
  local workers = P .. 'lane:' .. lane .. ':workers'
  if by ~= view() or redis.call('ZCARD', workers) ~= 1 or not redis.call('ZSCORE', workers, worker) then return end
  if not closed_to(lane, kind) then return lane, model, worker end
end

local lane, model, worker = shortcut()
if lane then
  request = read(id)
  dispatch_one(id, request, lane, model, '')
  -- A lease so short that a worker that has died has not got it for long; one that lives renews it at once.
  local lease = math.min(rule('lease_ms'), math.max(rule('start_lease_ms'), CONFIRMED_MS))
  local _, attempt, _, _, _, nth, left, waited = unpack(start_one(id, request, worker, lease))
  local told = cjson.encode({ attempt = attempt, model = model, starts = nth, left_ms = left, waited_ms = waited })
  ring_lane(lane, kind, told .. '\n' .. ARGV[9] .. '\n' .. ARGV[10])
else
  ring(alone and { queue, agent, id, tonumber(ARGV[8]), revision })
end
return { 'accepted', revision, keys }
