-- nothing -> waiting. Accepts a request: stores it in its role's stream, and puts it into its queue. Submitting an id that the
-- server knows changes nothing, with one exception:
-- completed -> waiting. The request's owner submits it again, because the end of the answer is lost: neither the agent nor a
--   worker has it. The agent knows the attempt that completed the request, so the floor is at least that attempt.
--
-- uses  agent_fairness, rates
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 role  3 queue  4 agent  5 client  6 kind  7 time to live, ms
--       8 floor: the newest attempt that the agent has seen, if it submits a request again; otherwise 0
--       9 envelope, JSON  10 payload  11 id of the key that seals the payload, or ''
--       12 hash of the agent's idempotency key, or ''
--       13 quota against which the request counts, or ''  14 how many requests the quota allows at once
-- reply {'accepted', ids of the pool's keys} | {'full', 'role', 'agent' or 'quota': whose limit is reached, retry after ms}
--       | {'key', ids of the pool's keys}: none of these keys seals the payload
--       | {'cancelled'}: the request was cancelled before it arrived
--       | {'known', id, state}: the agent has another request with the same idempotency key

local id, role, queue, agent, client, kind = unpack(ARGV, 1, 6)
local left, floor = tonumber(ARGV[7]), tonumber(ARGV[8])
-- One command instead of four calls of `policy_rule`. A role's limits take precedence over the pool's.
local role_depth, depth, role_in_flight, in_flight = unpack(redis.call('HMGET', P .. 'policy',
  'depth:' .. role, 'depth', 'in_flight:' .. role, 'in_flight'))
depth, in_flight = tonumber(role_depth or depth or RULES.depth), tonumber(role_in_flight or in_flight or RULES.in_flight)
local announced, unwanted = unpack(redis.call('MGET', P .. 'key', P .. 'unwanted:' .. id))
local sealed, keys = ARGV[11], announced or ARGV[11]
local known_state, attempt, owner = unpack(redis.call('HMGET', P .. 'request:' .. id, 'state', 'attempt', 'client'))
local lacks_end = known_state == 'completed' and to_integer(attempt) <= floor and owner == client
if known_state and not lacks_end then return { 'accepted', keys } end
if is_unwanted(unwanted, client) then return { 'cancelled' } end
if keys ~= '' and not string.find(' ' .. keys .. ' ', ' ' .. sealed .. ' ', 1, true) then return { 'key', keys } end
local idempotency = ARGV[12] ~= '' and agent .. ':' .. ARGV[12]
local known = idempotency and redis.call('GET', P .. 'idem:' .. idempotency)
local state = known and known ~= id and redis.call('HGET', P .. 'request:' .. known, 'state')
if state then return { 'known', known, state } end

local function refuse_full(whose)
  count_event({ role = role, queue = queue, kind = kind }, 'refused', now_ms())
  local mean = tonumber(redis.call('HGET', P .. 'drain:' .. role, 'mean') or 1000)
  return { 'full', whose, math.ceil(math.max(mean, 100)) }
end

-- Workers of a version without quotas leave the requests that they end in the set. So if it is full, some members are tried, and
-- those that have ended make room for later requests.
local function drop_ended(ids)
  for _, member in ipairs(redis.call('SRANDMEMBER', ids, 32)) do
    if not ALIVE[redis.call('HGET', P .. 'request:' .. member, 'state')] then redis.call('SREM', ids, member) end
  end
end

local quota = (ARGV[13] or '') ~= '' and ARGV[13]
local quota_ids = quota and P .. 'agent:' .. quota .. ':quota'
local stream = P .. 'role:' .. role
if redis.call('XLEN', stream) >= depth then return refuse_full('role') end
if redis.call('SCARD', P .. 'agent:' .. agent) >= in_flight then return refuse_full('agent') end
if quota and redis.call('SCARD', quota_ids) >= tonumber(ARGV[14]) then
  drop_ended(quota_ids)
  return refuse_full('quota')
end

local now = now_ms()
local entry = redis.call('XADD', stream, '*', 'envelope', ARGV[9], 'payload', ARGV[10])
-- An earlier attempt may have sent deltas. So the request counts as started, and its worker will ask the agent how much of the
-- answer has arrived.
local starts = floor > 0 and 1 or 0
local request = { role = role, queue = queue, agent = agent, kind = kind, seq = decimal(redis.call('INCR', P .. 'sequence')) }
if lacks_end then redis.call('DEL', P .. 'request:' .. id) end
redis.call('HSET', P .. 'request:' .. id, 'state', 'waiting', 'role', role, 'queue', queue, 'agent', agent,
  'client', client, 'kind', kind, 'entry', entry, 'key', sealed, 'seq', request.seq, 'created', decimal(now),
  'deadline', decimal(now + left), 'attempt', decimal(floor), 'starts', decimal(starts), 'crashes', '0')
redis.call('ZADD', P .. 'deadlines', decimal(now + left), id)
redis.call('ZADD', P .. 'clients', decimal(now), client)
redis.call('SADD', P .. 'client:' .. client, id)
redis.call('SADD', P .. 'agent:' .. agent, id)
if idempotency then
  redis.call('SET', P .. 'idem:' .. idempotency, id)
  redis.call('HSET', P .. 'request:' .. id, 'once', idempotency)
end
if quota then
  redis.call('SADD', quota_ids, id)
  redis.call('HSET', P .. 'request:' .. id, 'quota', quota)
end
restore_keys(sealed)
count_event(request, 'accepted', now)

enqueue(id, request)
ring_routers()
return { 'accepted', keys }
