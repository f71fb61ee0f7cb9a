-- Makes a client the owner of a request: from now on that client keeps the request alive, and cancels it by leaving. A
-- request that has ended or was cancelled does not change.
--
-- uses  base
-- KEYS  1 the pool's prefix
-- ARGV  1 client  2 id
-- reply {the fields of `standing` in base.lua, then role, ms to the deadline}

local client, id = ARGV[1], ARGV[2]
begin()
local request = read(id)
if request and ALIVE[request.state] and not request.cancel and request.client ~= client then
  redis.call('ZADD', P .. 'clients', int(now_ms()), client)
  redis.call('SREM', P .. 'client:' .. request.client, id)
  redis.call('SADD', P .. 'client:' .. client, id)
  redis.call('HSET', P .. 'request:' .. id, 'client', client)
  request.client = client
  tell_agent(id, '{"v":1,"type":"attached","attempt":' .. request.attempt .. ',"client":"' .. client .. '"}')
end
local reply = standing(request)
reply[#reply + 1] = request and request.role or ''
reply[#reply + 1] = request and tonumber(request.deadline) - now_ms() or 0
return reply
