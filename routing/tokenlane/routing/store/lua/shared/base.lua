-- Functions that all other parts and scripts use. scripts.py puts two lines before it that define DATABASE (the number, as
-- text), RULES (the policy's defaults), KINDS (names of the kinds of work), SUFFIXES (of the lane queues, by kind) and IS_LONG
-- (by kind). KEYS[1] is the pool's prefix, `{main}:`. All keys begin with it, so they are in the same slot.

local P = KEYS[1]
local TAG = string.sub(P, 1, -2)
local CHANNEL = P .. DATABASE .. ':'
local KEEP_ENDED_S = 3600
local ALIVE = { waiting = true, delayed = true, dispatched = true, running = true }

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- The number as text. tostring() would write milliseconds as 1.7e+12.
local function int(number)
  return string.format('%.0f', number)
end

-- When memory is full, Redis lets a script write only if its first write deletes. Scripts that must work then begin with this.
local function begin()
  redis.call('ZREM', P .. 'leases', '')
end

-- Parses a whole number from a text that another version or any other client may have written. Returns `otherwise`, or 0, if
-- the text is not a number.
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

-- The state of a request for clients: {state, attempt, worker, end position, error code, owner}. Absent values are ''. The
-- owner is the client whose leaving cancels the request; '' if the server knows the request only from its worker.
local function standing(request)
  if not request then return { 'missing', 0, '', '', '', '' } end
  return { request.state, tonumber(request.attempt), request.worker or '', request['end'] or '', request.code or '',
    request.entry ~= '' and request.client or '' }
end

-- Whether a request was cancelled before it arrived. unwanted: the mark that `cancel` left, which is the client that left the
-- request, or '' for any client; client: the client that sends the request.
local function is_unwanted(unwanted, client)
  return unwanted and (unwanted == '' or unwanted == client)
end
