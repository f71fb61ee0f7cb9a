-- waiting, delayed, dispatched -> cancelled. running: flagged, and its worker told.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 id  2 client that leaves it, or '' to cancel it whoever owns it
-- reply 'cancelled' | 'flagged' | 'ended' in another way before | 'kept': another client owns it | 'unknown'

begin()
if ARGV[2] ~= '' then
  local request = read(ARGV[1])
  if request and ALIVE[request.state] and request.client ~= ARGV[2] then return 'kept' end
end
return cancel_one(ARGV[1], 'cancelled')
