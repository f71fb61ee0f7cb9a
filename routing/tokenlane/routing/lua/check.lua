-- A client's beat; and for the streams it has heard nothing of, how they stand.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 client  then ids, at most 128
-- reply {routers that live, lanes that live, lanes that are away as {name, ms since the last beat}, those seen last
--       first and 3 at most, lanes that pull models as {name, JSON: models and how far}, then for each id {state,
--       attempt, worker, end position, error code, owner}}: state is 'missing' if the server does not know the id; what there is none of is ''

local client, now = ARGV[1], now_ms()
begin()
redis.call('ZADD', P .. 'clients', int(now), client)
local routers = redis.call('ZCOUNT', P .. 'routers', int(now - 3000), '+inf')
local lanes = redis.call('ZCOUNT', P .. 'lanes', int(now - rule('lease_ms')), '+inf')
local away = {}
local seen = redis.call('ZREVRANGEBYSCORE', P .. 'lanes', '(' .. int(now - rule('lease_ms')), '-inf', 'WITHSCORES',
  'LIMIT', 0, 3)
for i = 1, #seen, 2 do
  away[#away + 1] = { seen[i], now - tonumber(seen[i + 1]) }
end
local pulls = {}
local pulled = redis.call('HGETALL', P .. 'pulls')
for i = 1, #pulled, 2 do
  local beat = tonumber(redis.call('ZSCORE', P .. 'lanes', pulled[i]) or 0)
  if beat > now - rule('lease_ms') then pulls[#pulls + 1] = { pulled[i], pulled[i + 1] } end
end
local reply = { routers, lanes, away, pulls }
for i = 2, #ARGV do
  reply[#reply + 1] = standing(read(ARGV[i]))
end
return reply
