-- Makes a client the owner of a request. From then on this client's beats keep the request alive, and the request is cancelled
-- when this client leaves. A request that has ended or was cancelled does not change.
--
-- uses  base
-- KEYS  1 the pool's prefix
-- ARGV  1 client  2 id
-- reply {the values of `status_of` in base.lua, role, ms to the deadline}; role '' and 0 ms for an unknown request

local client, id = ARGV[1], ARGV[2]
begin_with_delete()
local request = read_request(id)
if request and ALIVE[request.state] and not request.cancel and request.client ~= client then
  redis.call('ZADD', P .. 'clients', decimal(now_ms()), client)
  redis.call('SREM', P .. 'client:' .. request.client, id)
  redis.call('SADD', P .. 'client:' .. client, id)
  redis.call('HSET', P .. 'request:' .. id, 'client', client)
  request.client = client
  publish_to_agent(id, '{"v":1,"type":"attached","attempt":' .. request.attempt .. ',"client":"' .. client .. '"}')
end
local reply = status_of(request)
reply[#reply + 1] = request and request.role or ''
reply[#reply + 1] = request and tonumber(request.deadline) - now_ms() or 0
return reply
