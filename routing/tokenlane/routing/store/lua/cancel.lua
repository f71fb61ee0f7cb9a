-- waiting, delayed, dispatched -> cancelled. running: flagged, and its worker told. Unknown: what is on its way here, a
-- submission or one sent again, is not taken in when it comes; what a worker still runs is flagged by its beat. Only for who
-- has sent it, if a client leaves it: one that attached to what it was not given has nothing to take back.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 client that leaves it, or '' to cancel it whoever owns it
-- reply 'cancelled' | 'flagged' | 'ended' in another way before | 'kept': another client owns it | 'unknown'

local UNWANTED_MS = 60000
begin()
if ARGV[2] ~= '' then
  local request = read(ARGV[1])
  if request and ALIVE[request.state] and request.client ~= ARGV[2] then return 'kept' end
end
local answer = cancel_one(ARGV[1], 'cancelled')
if answer == 'unknown' then redis.call('SET', P .. 'unwanted:' .. ARGV[1], ARGV[2], 'PX', UNWANTED_MS) end
return answer
