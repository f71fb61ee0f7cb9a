-- Keeps the sealed payloads of failed requests if the pool's policy says so (`keep_payload`), for `tokenlane failed redrive`.
--
-- `kept:ID` has the envelope and the payload of a request, for a day. `kept` has the ids; the score of each is the sum of the bytes
-- kept up to and including that request, so the oldest are forgotten when more than 1,000 requests or 64 MiB are kept.
-- uses base

local KEEP_PAYLOAD_S, MOST_PAYLOADS = 86400, 1000
local LARGEST, MOST_BYTES = 8388608, 67108864

-- Whether the script may keep a payload: the policy says so, and the server's memory is not full. Must be called before the script's
-- first write, because the server refuses no later write. It tries to update a lease that does not exist.
local function may_keep_payload()
  if policy_rule('keep_payload') ~= 1 then return false end
  return type(redis.pcall('ZADD', P .. 'leases', 'XX', 0, '')) == 'number'
end

-- Forgets a request's payload, if it was kept. The request itself then stays for as long as one whose payload was not kept.
local function forget_payload(id)
  redis.call('ZREM', P .. 'kept', id)
  if redis.call('DEL', P .. 'kept:' .. id) == 1 then redis.call('EXPIRE', P .. 'request:' .. id, KEEP_ENDED_S) end
end

local function forget_payloads(ids)
  for _, id in ipairs(ids) do forget_payload(id) end
end

-- Keeps the payload of a request that is about to fail, and returns whether it does. A payload that is not sealed, or that has more than
-- 8 MiB with its envelope, is not kept.
local function keep_payload(id, request)
  local entry = request.entry ~= '' and request.key ~= ''
    and redis.call('XRANGE', P .. 'role:' .. request.role, request.entry, request.entry)[1]
  if not entry then return false end
  local size = 0
  for _, value in ipairs(entry[2]) do size = size + #value end
  if size > LARGEST then return false end

  local index, key = P .. 'kept', P .. 'kept:' .. id
  local sum = to_integer(redis.call('ZRANGE', index, -1, -1, 'WITHSCORES')[2]) + size
  redis.call('HSET', key, unpack(entry[2]))
  redis.call('EXPIRE', key, KEEP_PAYLOAD_S)
  redis.call('ZADD', index, decimal(sum), id)
  redis.call('EXPIRE', index, KEEP_PAYLOAD_S)
  forget_payloads(redis.call('ZRANGE', index, 0, -MOST_PAYLOADS - 1))
  -- The oldest of those that remain may have begun up to LARGEST bytes before its score.
  forget_payloads(redis.call('ZRANGEBYSCORE', index, '-inf', decimal(sum - MOST_BYTES + LARGEST)))
  return true
end
