-- waiting, delayed, dispatched -> cancelled. A running request is flagged, and its worker notified. For an unknown request a
-- mark stays: `submit` refuses a request that arrives later, and its worker's beat flags one that still runs. If a client
-- leaves the request, the mark is only for requests of that client.
--
-- uses  ending
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 client that leaves it, or '' to cancel it for every owner
-- reply what `cancel_one` of ending.lua returns | 'kept': another client owns it

local UNWANTED_MS = 60000
begin()
if ARGV[2] ~= '' then
  local request = read(ARGV[1])
  if request and ALIVE[request.state] and request.client ~= ARGV[2] then return 'kept' end
end
local outcome = cancel_one(ARGV[1], 'cancelled')
if outcome == 'unknown' then redis.call('SET', P .. 'unwanted:' .. ARGV[1], ARGV[2], 'PX', UNWANTED_MS) end
return outcome
