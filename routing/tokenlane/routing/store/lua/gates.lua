-- What must hold before a lane starts a request: each gate of GATES answers nothing, or why the request waits. They are those
-- of decide/lanes/gates.py, in the same order and with the same reasons, so that a plan asks for what the store gives.

local KEPT_FREE_MS = 2000

-- Requests of a kind that a lane serves at once.
local function lane_limit(lane, kind)
  local state = P .. 'lane:' .. lane .. ':state'
  if kind == 'chat' then return whole(redis.call('HGET', state, 'limit')) end
  local read_well, offer = pcall(cjson.decode, redis.call('HGET', state, 'offer') or '')
  local limits = read_well and type(offer) == 'table' and offer.limits
  local limit = type(limits) == 'table' and limits[kind]
  return type(limit) == 'number' and whole(limit) or 0
end

-- How many workers of a lane were heard of within a lease, and take new work.
local function takers(lane, now)
  return redis.call('ZCOUNT', P .. 'lane:' .. lane .. ':workers', int(now - rule('lease_ms')), '+inf')
end

-- How many more requests of a kind a lane takes.
local function credit(lane, kind, now)
  if takers(lane, now) == 0 then return 0 end
  return math.max(0, lane_limit(lane, kind) - redis.call('ZCARD', lane_queue(lane, kind)))
end

local function alone_mark(lane)
  return P .. 'lane:' .. lane .. ':alone'
end

-- The suspect that runs on a lane alone, or for which it is kept free. A mark of one that runs outlives it where a script of
-- an older version ended its attempt.
local function kept_for(lane)
  local id = redis.call('GET', alone_mark(lane))
  if not id then return nil end
  local state, at = unpack(redis.call('HMGET', P .. 'request:' .. id, 'state', 'lane'))
  if state == 'dispatched' or state == 'running' then return at == lane and id or nil end
  return ALIVE[state] and redis.call('PTTL', alone_mark(lane)) > 0 and id or nil
end

-- Keeps a lane from filling up again until it is empty and the suspect can have it, for as long as routers ask: one lane for
-- each suspect.
local function keep_free(lane, id, request)
  local other = request.emptied
  if other and other ~= lane and redis.call('GET', alone_mark(other)) == id then return end
  redis.call('SET', alone_mark(lane), id, 'PX', KEPT_FREE_MS)
  redis.call('HSET', P .. 'request:' .. id, 'emptied', lane)
end

-- A suspect has the lane to itself from its dispatch to the end of its attempt.
local function hold_alone(lane, id, request)
  if not request.suspect then return end
  redis.call('SET', alone_mark(lane), id)
  redis.call('HSET', P .. 'request:' .. id, 'alone', '1')
end

local function release(request)
  if request.alone then redis.call('DEL', alone_mark(request.lane)) end
end

local GATES = {
  -- Some worker of the lane takes new work, and the lane this kind of it.
  function(lane, _, request)
    if takers(lane, now_ms()) == 0 or lane_limit(lane, request.kind) == 0 then return 'closed' end
  end,
  -- No other request runs there alone, or is to.
  function(lane, id)
    local suspect = kept_for(lane)
    if suspect and suspect ~= id then return 'kept' end
  end,
  -- The lane has credit for this kind.
  function(lane, _, request)
    if credit(lane, request.kind, now_ms()) == 0 then return 'full' end
  end,
  -- A suspect takes an empty lane. It waits for no long work, such as a pull, which goes on where it was once its worker is
  -- there again.
  function(lane, _, request)
    if not request.suspect then return end
    for _, kind in ipairs(KINDS) do
      local counts = kind == request.kind or not IS_LONG[kind]
      if counts and redis.call('ZCARD', lane_queue(lane, kind)) > 0 then return 'occupied' end
    end
  end,
}

-- Why a lane does not take a request now; nil if it does. A lane that a suspect finds occupied is kept free for it.
local function why_not(lane, id, request)
  for _, gate in ipairs(GATES) do
    local why = gate(lane, id, request)
    if why then
      if request.suspect and (why == 'occupied' or why == 'full') then keep_free(lane, id, request) end
      return why
    end
  end
end
