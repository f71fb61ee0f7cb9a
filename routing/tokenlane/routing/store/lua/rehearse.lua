-- Tries each Redis command that the other scripts use, on a temporary key that it deletes.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 name of the temporary key  2 a channel without subscribers
-- reply {{command, the server's error} for each command that failed}

local P, name, channel = KEYS[1], ARGV[1], ARGV[2]
local key = P .. 'rehearsal:' .. name
local TRIES = {
  { 'TIME' },
  { 'SET', key, '1', 'PX', 1000 }, { 'PTTL', key }, { 'GET', key }, { 'MGET', key }, { 'INCR', key }, { 'EXISTS', key },
  { 'EXPIRE', key, 1 }, { 'PEXPIRE', key, 1000 }, { 'PEXPIREAT', key, '9999999999999' }, { 'DEL', key },
  { 'HSET', key, 'a', '1' }, { 'HGET', key, 'a' }, { 'HMGET', key, 'a' }, { 'HGETALL', key }, { 'HINCRBY', key, 'a', 1 },
  { 'HDEL', key, 'a' },
  { 'SADD', key, 'a', 'b', 'c' }, { 'SCARD', key }, { 'SMEMBERS', key }, { 'SISMEMBER', key, 'a' },
  { 'SRANDMEMBER', key }, { 'SREM', key, 'a' }, { 'SPOP', key, 2 },
  { 'ZADD', key, 1, 'a' }, { 'ZINCRBY', key, 1, 'a' }, { 'ZSCORE', key, 'a' }, { 'ZRANK', key, 'a' },
  { 'ZCARD', key }, { 'ZCOUNT', key, '-inf', '+inf' }, { 'ZRANGE', key, 0, -1 }, { 'ZRANGEBYSCORE', key, '-inf', '+inf' },
  { 'ZREVRANGE', key, 0, -1 }, { 'ZREMRANGEBYSCORE', key, '-inf', '+inf' }, { 'ZREM', key, 'a' },
  { 'XADD', key, '1-1', 'a', '1' }, { 'XLEN', key }, { 'XRANGE', key, '-', '+' }, { 'XDEL', key, '1-1' },
  { 'DEL', key },
  { 'PUBLISH', channel, '' },
}

local failed = {}
for _, try in ipairs(TRIES) do
  local answer = redis.pcall(unpack(try))
  if type(answer) == 'table' and answer.err then failed[#failed + 1] = { try[1], answer.err } end
end
return failed
