-- A client's beat; and for the streams it has heard nothing of, how they stand.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 client  then ids, at most 128
-- reply {routers that live, lanes that live, then for each id {state, attempt, worker, end position, error code,
--       owner}}: state is 'missing' if the server does not know the id; what there is none of is ''

local client, now = ARGV[1], now_ms()
begin()
redis.call('ZADD', P .. 'clients', int(now), client)
local routers = redis.call('ZCOUNT', P .. 'routers', int(now - 3000), '+inf')
local lanes = redis.call('ZCOUNT', P .. 'lanes', int(now - rule('lease_ms')), '+inf')
local reply = { routers, lanes }
for i = 2, #ARGV do
  reply[#reply + 1] = standing(read(ARGV[i]))
end
return reply
