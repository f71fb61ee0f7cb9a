-- Counts the requests that a role accepts and ends, for operators, and how fast the role drains, for the retry_after of a full
-- queue.
-- uses base

local RATE_MS, RATE_BUCKETS = 10000, 6

local function priority_of(queue)
  return string.match(queue or '', '^[^:]*:[^:]*:([^:]+)') or 'normal'
end

-- what: 'accepted', or how the request ended. If this is a field's first count, the hash may be new and get its expiry.
local function count(request, what, now)
  local rates = P .. 'rates:' .. int(math.floor(now / RATE_MS))
  local field = request.role .. ':' .. priority_of(request.queue) .. ':' .. what
  if redis.call('HINCRBY', rates, field, 1) == 1 then
    redis.call('PEXPIRE', rates, RATE_MS * (RATE_BUCKETS + 2))
  end
end

-- Measures the time between ends. idle: no request of the role is left, so the time until the next end does not count.
local function note_drain(role, now, idle)
  local drain = P .. 'drain:' .. role
  local last, mean = unpack(redis.call('HMGET', drain, 'at', 'mean'))
  if last then
    local gap = math.min(now - tonumber(last), 60000)
    mean = mean and (0.8 * tonumber(mean) + 0.2 * gap) or gap
    redis.call('HSET', drain, 'mean', int(mean))
  end
  if idle then
    redis.call('HDEL', drain, 'at')
  else
    redis.call('HSET', drain, 'at', int(now))
  end
  redis.call('EXPIRE', drain, KEEP_ENDED_S)
end
