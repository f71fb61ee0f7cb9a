-- The retry budget: limits how much load failed attempts add to the pool's model servers. It allows some retries at once, one more
-- per second, and one more for every ten completed requests. docs/decisions/0055 explains the numbers.
--
-- The hash `retries` has one field, `paid_at`: when all retries so far are paid for, if no request completes until then.
-- Every retry moves this time 1 s later, and every completed request moves it 0.1 s earlier. If it has passed, the hash is gone.
-- The loader defines FREE_RETRIES and RETRY_MS as decide/recovery.py has them.
-- uses lanes

local COMPLETED_MS = 100

local function set_paid_at(paid_at)
  redis.call('HSET', P .. 'retries', 'paid_at', decimal(paid_at))
  redis.call('PEXPIREAT', P .. 'retries', decimal(paid_at))
end

-- Takes one retry from the budget, and returns how many ms the request must be delayed for it. Returns nil, and takes nothing, if
-- that is more than longest_ms. As many retries are free of delay as the failed lane runs requests, and FREE_RETRIES more: a model
-- server that dies fails all its requests at once.
local function take_retry(lane, kind, longest_ms)
  local now = now_ms()
  local paid_at = math.max(to_integer(redis.call('HGET', P .. 'retries', 'paid_at')), now) + RETRY_MS
  local free = FREE_RETRIES + math.max(lane_limit(lane, kind), 0)
  local delay_ms = paid_at - now - free * RETRY_MS
  if delay_ms > longest_ms then return nil end
  set_paid_at(paid_at)
  return math.max(delay_ms, 0)
end

-- Adds a completed request's share of a retry to the budget. A full budget does not grow.
local function repay_budget()
  local paid_at = redis.call('HGET', P .. 'retries', 'paid_at')
  if paid_at then set_paid_at(to_integer(paid_at) - COMPLETED_MS) end -- a time in the past deletes the hash
end
