-- waiting, delayed, dispatched -> cancelled. A running request is flagged, and its worker is notified. For an unknown request
-- a mark is left: if the request arrives later, `submit` refuses it; if the request still runs on a worker, the worker's next
-- beat flags it. If a client leaves its request, the mark applies only to requests of that client.
--
-- uses  ending
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 client that leaves the request, or '' to cancel it whoever owns it
-- reply the outcome of `cancel_one` in ending.lua | 'kept': another client owns the request

local UNWANTED_MS = 60000
begin()
if ARGV[2] ~= '' then
  local request = read(ARGV[1])
  if request and ALIVE[request.state] and request.client ~= ARGV[2] then return 'kept' end
end
local outcome = cancel_one(ARGV[1], 'cancelled')
if outcome == 'unknown' then redis.call('SET', P .. 'unwanted:' .. ARGV[1], ARGV[2], 'PX', UNWANTED_MS) end
return outcome
