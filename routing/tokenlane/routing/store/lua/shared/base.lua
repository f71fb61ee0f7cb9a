-- Functions that all other parts and most scripts use. Before this part, scripts.py inserts lines that define:
-- DATABASE, the database number as text; RULES, the policy's defaults; KINDS, the names of the kinds of work; SUFFIXES, the
-- suffix of a lane's queue for each kind; IS_LONG, true for each kind whose work takes long; and IS_UNROUTED, true for each
-- kind that follows no route.
-- KEYS[1] is the pool's prefix, such as `{main}:`. Every key begins with it, so all keys of a pool are in one slot.

local P = KEYS[1]
local TAG = string.sub(P, 1, -2)
local CHANNEL = P .. DATABASE .. ':'
local KEEP_ENDED_S = 3600
local ALIVE = { waiting = true, delayed = true, dispatched = true, running = true }

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Formats a number as a whole number in decimal. tostring() would format a time in milliseconds as 1.7e+12.
local function decimal(number)
  return string.format('%.0f', number)
end

-- Deletes an entry that does not exist. When memory is full, Redis lets a script write only if its first write deletes, so
-- scripts that must run even then call this first.
local function begin_with_delete()
  redis.call('ZREM', P .. 'leases', '')
end

-- Parses a whole number from text that another version, or any other Redis client, may have written. Returns `otherwise` (by
-- default 0) if the text is not a number.
local function to_integer(text, otherwise)
  local number = text and tonumber(text)
  if not number or number ~= number or math.abs(number) > 9007199254740992 then return otherwise or 0 end
  return math.floor(number)
end

-- The value of a rule in the pool's policy, or its default.
local function policy_rule(name)
  return tonumber(redis.call('HGET', P .. 'policy', name) or RULES[name])
end

-- The fields of a request; nil if the server does not know the request.
local function read_request(id)
  local flat = redis.call('HGETALL', P .. 'request:' .. id)
  if #flat == 0 then return nil end
  local request = {}
  for i = 1, #flat, 2 do request[flat[i]] = flat[i + 1] end
  return request
end

-- Why the last attempt ended that was put back into a queue: the code in the last line of `history`, or ''.
local function last_ended_by(request)
  return string.match(request.history or '', '"([%w_]*)"%]$') or ''
end

-- The key of a lane's ARQ queue for one kind of work.
local function lane_queue(lane, kind)
  return P .. 'lane:' .. lane .. (SUFFIXES[kind] or ':' .. kind)
end

-- Announces the ids of the pool's keys again if the server has lost them with its data. Otherwise the pool would be in use
-- without a key, and no process with a key could join it. ids: the ids that the calling process knows, or ''.
local function restore_keys(ids)
  if ids ~= '' then redis.call('SET', P .. 'key', ids, 'NX') end
end

-- Rings the routers' doorbell, because there may be something to dispatch.
local function ring_routers()
  redis.call('PUBLISH', CHANNEL .. 'doorbell', '')
end

-- Publishes a message to the agent that waits for a request. message: JSON. Returns how many clients received it.
local function publish_to_agent(id, message)
  return redis.call('PUBLISH', CHANNEL .. 'deltas:' .. id, message)
end

-- The state of a request, for clients: {state, attempt, worker, end position, error code, owner}. A value that the request
-- does not have is ''. The owner is the client that keeps the request alive; it is '' if the server knows the request only
-- from its worker. request: as `read_request` returns it.
local function status_of(request)
  if not request then return { 'missing', 0, '', '', '', '' } end
  return { request.state, tonumber(request.attempt), request.worker or '', request['end'] or '', request.code or '',
    request.entry ~= '' and request.client or '' }
end

-- Whether a request was cancelled before it arrived. unwanted: the value of the key `unwanted:ID`, which `cancel` writes: the
-- client that left the request, or '' if the request was cancelled for every client; client: the client that owns the request.
local function is_unwanted(unwanted, client)
  return unwanted and (unwanted == '' or unwanted == client)
end
