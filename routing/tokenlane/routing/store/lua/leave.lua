-- A client's last beat. The next sweep cancels the requests that the client still owns, and forgets the client.
--
-- uses  base
-- KEYS  1 the pool's prefix
-- ARGV  1 client
-- reply 'ok'

begin_with_delete()
if redis.call('EXISTS', P .. 'client:' .. ARGV[1]) == 1 then
  redis.call('ZADD', P .. 'clients', 'XX', 0, ARGV[1])
  ring_routers()
else
  redis.call('ZREM', P .. 'clients', ARGV[1])
end
return 'ok'
