-- Counts the requests of each role that are accepted, refused, tried again and that end, for operators; and measures how fast a
-- role's requests end, which gives the retry_after of a full queue.
-- uses base

local RATE_MS, RATE_BUCKETS = 10000, 6

-- The priority in a queue's name; 'normal' for a request that the server knows only from its worker, since it has no queue.
local function priority_of(queue)
  return string.match(queue or '', '^[^:]*:[^:]*:([^:]+)') or 'normal'
end

-- Counts an event of a request. what: 'accepted', 'refused', 'retried' after an attempt ended, 'recovered'
-- from a lost worker, or how the request ended. Work that follows no route, such as a model command, counts for no role. A
-- field's first count may have created the hash, so the hash gets its expiry then.
local function count_event(request, what, now)
  if IS_UNROUTED[request.kind] then return end
  local rates = P .. 'rates:' .. decimal(math.floor(now / RATE_MS))
  local field = request.role .. ':' .. priority_of(request.queue) .. ':' .. what
  if redis.call('HINCRBY', rates, field, 1) == 1 then
    redis.call('PEXPIRE', rates, RATE_MS * (RATE_BUCKETS + 2))
  end
end

-- Updates the mean time between the ends of a role's requests, of which one that ran has just ended. Only time in which that
-- request ran counts: while a role has no requests or no worker, none of its requests can end.
local function record_drain(role, started, now)
  local drain = P .. 'drain:' .. role
  local last, mean = unpack(redis.call('HMGET', drain, 'at', 'mean'))
  local gap = math.min(now - math.max(tonumber(last or 0), started), 60000)
  mean = mean and (0.8 * tonumber(mean) + 0.2 * gap) or gap
  redis.call('HSET', drain, 'at', decimal(now), 'mean', decimal(mean))
  redis.call('EXPIRE', drain, KEEP_ENDED_S)
end
