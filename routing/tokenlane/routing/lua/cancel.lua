-- waiting, delayed, dispatched -> cancelled. running: flagged, and its worker told.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 id
-- reply 'cancelled' | 'flagged' | 'ended' in another way before | 'unknown'

begin()
return cancel_one(ARGV[1], 'cancelled')
