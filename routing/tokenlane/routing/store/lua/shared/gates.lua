-- The gates: the conditions that a request must pass before a lane starts it. Each gate returns nil if the request passes, or
-- the name of the reason why it waits. decide/lanes/gates.py has the same gates, in the same order and with the same names, so
-- that `dispatch` accepts what a router has planned.
-- uses lanes

local RESERVED_MS = 2000

local GATES = {
  -- No operator has drained the lane.
  function(lane)
    if is_drained(lane) == 1 then return 'drained' end
  end,
  -- A worker of the lane accepts new work, and the lane accepts this kind.
  function(lane, _, request)
    local workers = accepting_workers(lane, now_ms(), policy_rule('lease_ms'))
    if workers == 0 or lane_limit(lane, request.kind) == 0 then return 'closed' end
  end,
  -- No other request runs alone on the lane, and the lane is not reserved for another request.
  function(lane, id)
    local suspect = reserved_for(lane)
    if suspect and suspect ~= id then return 'reserved' end
  end,
  -- The lane has a free slot for this kind.
  function(lane, _, request)
    if credit(lane, request.kind) <= 0 then return 'full' end
  end,
  -- A suspect starts only on an empty lane. It does not wait for long work of another kind, such as a pull, because that can
  -- resume if the suspect kills the worker.
  function(lane, _, request)
    if not request.suspect then return end
    for _, kind in ipairs(KINDS) do
      local counts = kind == request.kind or not IS_LONG[kind]
      if counts and redis.call('ZCARD', lane_queue(lane, kind)) > 0 then return 'occupied' end
    end
  end,
}

-- Reserves a lane for a suspect: no other request starts on the lane until it is empty and the suspect starts. The reservation
-- expires unless routers repeat it. A suspect has at most one reserved lane.
local function reserve(lane, id, request)
  local other = request.emptied
  if other and other ~= lane and redis.call('GET', P .. 'lane:' .. other .. ':alone') == id then return end
  redis.call('SET', P .. 'lane:' .. lane .. ':alone', id, 'PX', RESERVED_MS)
  redis.call('HSET', P .. 'request:' .. id, 'emptied', lane)
end

-- The name of the gate that a request does not pass at a lane; nil if it passes all of them. If a suspect waits because other
-- requests run on the lane, this reserves the lane for the suspect.
local function blocking_gate(lane, id, request)
  for _, gate in ipairs(GATES) do
    local why = gate(lane, id, request)
    if why then
      if request.suspect and (why == 'occupied' or why == 'full') then reserve(lane, id, request) end
      return why
    end
  end
end
