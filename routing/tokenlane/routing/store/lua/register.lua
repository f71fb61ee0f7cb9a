-- Stores a worker's lane, host, versions and key ids, for operators. A worker calls this when the reply to its beat shows that
-- it is not registered, and when its pool keys have changed.
--
-- uses  base
-- KEYS  1 the pool's prefix
-- ARGV  1 worker  2 lane  3 host  4 JSON: the versions of its distributions  5 ids of its pool keys, separated by spaces
-- reply 'ok'

begin_with_delete()
local facts = P .. 'worker:' .. ARGV[1]
redis.call('HSET', facts, 'lane', ARGV[2], 'host', ARGV[3], 'versions', ARGV[4], 'keys', ARGV[5],
  'revision', redis.call('HGET', P .. 'policy', 'revision') or '0')
redis.call('PEXPIRE', facts, decimal(LEASES_KEPT * policy_rule('lease_ms')))
return 'ok'
