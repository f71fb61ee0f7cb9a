-- A client's last beat. The next sweep cancels the requests that the client still owns.
--
-- uses  base
-- KEYS  1 the pool's prefix
-- ARGV  1 client
-- reply 'ok'

begin()
if redis.call('EXISTS', P .. 'client:' .. ARGV[1]) == 1 then
  redis.call('ZADD', P .. 'clients', 'XX', 0, ARGV[1])
  ring()
else
  redis.call('ZREM', P .. 'clients', ARGV[1])
end
return 'ok'
