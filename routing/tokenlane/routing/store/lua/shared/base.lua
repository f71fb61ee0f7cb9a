-- The ground of all other parts and scripts. scripts.py puts two lines before it: DATABASE (a number, as text), RULES (the
-- policy's defaults), KINDS (names of the kinds of work), SUFFIXES of their lane queues, and IS_LONG.
-- KEYS[1] is the pool's prefix, `{main}:`. Every other key is built from it, and so lies in the same slot.

local P = KEYS[1]
local TAG = string.sub(P, 1, -2)
local CHANNEL = P .. DATABASE .. ':'
local KEEP_ENDED_S = 3600
local ALIVE = { waiting = true, delayed = true, dispatched = true, running = true }

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- tostring() would write milliseconds as 1.7e+12
local function int(number)
  return string.format('%.0f', number)
end

-- When memory is full, Redis lets a script write only after it has deleted. Scripts that must work then begin with this.
local function begin()
  redis.call('ZREM', P .. 'leases', '')
end

-- The whole number in a text that another version, or any other client, may have written; `otherwise`, or 0, if the text
-- holds no whole number.
local function whole(text, otherwise)
  local number = text and tonumber(text)
  if not number or number ~= number or math.abs(number) > 9007199254740992 then return otherwise or 0 end
  return math.floor(number)
end

local function rule(name)
  return tonumber(redis.call('HGET', P .. 'policy', name) or RULES[name])
end

local function read(id)
  local flat = redis.call('HGETALL', P .. 'request:' .. id)
  if #flat == 0 then return nil end
  local request = {}
  for i = 1, #flat, 2 do request[flat[i]] = flat[i + 1] end
  return request
end

local function lane_queue(lane, kind)
  return P .. 'lane:' .. lane .. (SUFFIXES[kind] or ':' .. kind)
end

local function ring()
  redis.call('PUBLISH', CHANNEL .. 'doorbell', '')
end

local function tell_agent(id, message)
  redis.call('PUBLISH', CHANNEL .. 'deltas:' .. id, message)
end

-- What clients hear of a request: {state, attempt, worker, end position, error code, owner}. Absent values are ''. The owner
-- is the client whose leaving cancels the request; '' if the server has learnt of the request only from its worker.
local function standing(request)
  if not request then return { 'missing', 0, '', '', '', '' } end
  return { request.state, tonumber(request.attempt), request.worker or '', request['end'] or '', request.code or '',
    request.entry ~= '' and request.client or '' }
end

-- Whether a request that arrives now was cancelled before. unwanted: what `cancel` left, the client that gave the request up
-- or '' for all clients; client: the sender.
local function is_unwanted(unwanted, client)
  return unwanted and (unwanted == '' or unwanted == client)
end
