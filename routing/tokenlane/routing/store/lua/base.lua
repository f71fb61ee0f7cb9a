-- What every script stands on. The loader puts in front of it: DATABASE (number, as text), RULES (the policy's defaults),
-- and of the kinds of work KINDS (their names), SUFFIXES of their lane queues, IS_LONG.
-- KEYS[1] is the pool's prefix, `{main}:`; every other name is built from it and so lies in the same slot.

local P = KEYS[1]
local TAG = string.sub(P, 1, -2)
local CHANNEL = P .. DATABASE .. ':'
local KEEP_ENDED_S = 3600
local RATE_MS, RATE_BUCKETS = 10000, 6
local JOB_KEPT_MS = 86400000 -- what ARQ is told of a job; its end deletes it

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- tostring() would write milliseconds as 1.7e+12
local function int(number)
  return string.format('%.0f', number)
end

-- When memory is full Redis lets a script write only once it has deleted: scripts that must work then begin with this.
local function begin()
  redis.call('ZREM', P .. 'leases', '')
end

-- What another version, or anybody, has written for a whole number; `otherwise`, or 0, where it is none.
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

local ALIVE = { waiting = true, delayed = true, dispatched = true, running = true }

local function lane_queue(lane, kind)
  return P .. 'lane:' .. lane .. (SUFFIXES[kind] or ':' .. kind)
end
