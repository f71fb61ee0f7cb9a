-- waiting, delayed, dispatched -> cancelled. A running request is flagged, and its worker is notified. An unknown request is
-- remembered in `unwanted:ID` for a minute: if it arrives later, `submit` refuses it; if a worker still runs it, the worker's
-- next beat flags it. If a client leaves its request, this applies only if that client owns the request.
--
-- uses  ending
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 client that leaves the request, or '' to cancel the request whoever owns it
-- reply 'cancelled' | 'flagged' | 'ended' | 'unknown', as `cancel_request` in ending.lua returns them
--       | 'kept': another client owns the request

local UNWANTED_MS = 60000
begin_with_delete()
if ARGV[2] ~= '' then
  local request = read_request(ARGV[1])
  if request and ALIVE[request.state] and request.client ~= ARGV[2] then return 'kept' end
end
local outcome = cancel_request(ARGV[1], 'cancelled')
if outcome == 'unknown' then redis.call('SET', P .. 'unwanted:' .. ARGV[1], ARGV[2], 'PX', UNWANTED_MS) end
return outcome
