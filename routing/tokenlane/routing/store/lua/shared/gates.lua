-- The conditions under which a lane starts a request. Each gate returns nil if the request passes, or the reason why it waits.
-- decide/lanes/gates.py has the same gates in the same order with the same reasons, so that `dispatch` accepts the router's
-- plan.
-- uses lanes

local KEPT_FREE_MS = 2000

local GATES = {
  -- A worker of the lane takes new work, and the lane serves this kind.
  function(lane, _, request)
    if takers(lane, now_ms(), rule('lease_ms')) == 0 or lane_limit(lane, request.kind) == 0 then return 'closed' end
  end,
  -- No other request runs alone on the lane, or is next to run alone there.
  function(lane, id)
    local suspect = kept_for(lane)
    if suspect and suspect ~= id then return 'kept' end
  end,
  -- The lane has credit for this kind.
  function(lane, _, request)
    if credit(lane, request.kind) <= 0 then return 'full' end
  end,
  -- A suspect starts only on an empty lane. It does not wait for long work, such as a pull, which can resume if the suspect
  -- kills its worker.
  function(lane, _, request)
    if not request.suspect then return end
    for _, kind in ipairs(KINDS) do
      local counts = kind == request.kind or not IS_LONG[kind]
      if counts and redis.call('ZCARD', lane_queue(lane, kind)) > 0 then return 'occupied' end
    end
  end,
}

-- Keeps a lane free for a suspect: no other request starts on it until the lane is empty and the suspect starts. The mark
-- expires unless routers repeat it. Each suspect has one such lane at most.
local function keep_free(lane, id, request)
  local other = request.emptied
  if other and other ~= lane and redis.call('GET', P .. 'lane:' .. other .. ':alone') == id then return end
  redis.call('SET', P .. 'lane:' .. lane .. ':alone', id, 'PX', KEPT_FREE_MS)
  redis.call('HSET', P .. 'request:' .. id, 'emptied', lane)
end

-- Why a lane does not take a request now; nil if it does. If the lane is too full for a suspect, it is kept free from now on.
local function why_not(lane, id, request)
  for _, gate in ipairs(GATES) do
    local why = gate(lane, id, request)
    if why then
      if request.suspect and (why == 'occupied' or why == 'full') then keep_free(lane, id, request) end
      return why
    end
  end
end
