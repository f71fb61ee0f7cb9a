-- Sets the ids of the keys that seal the pool's requests: if the pool has no keys and nobody uses it yet, or with 'replace'
-- always. Ids are separated by spaces, the newest first.
--
-- uses  base
-- KEYS  1 the pool's prefix
-- ARGV  1 ids of the caller's keys  2 'replace' | ''
--       3 with 'replace', ids of keys that no longer seal but still unseal waiting requests
--       4 with 'replace', ids of keys that do not seal yet
-- reply {'sealed', ids of the pool's keys, ids of keys that no longer seal}
--       | {'open', the given ids, ''}: the pool stays without keys, because no ids were given or because it is in use

local ids, replace, retiring, prepared = ARGV[1], ARGV[2] == 'replace', ARGV[3], ARGV[4]
local function put(key, value)
  if value == '' then redis.call('DEL', key) else redis.call('SET', key, value) end
end

local announced = redis.call('GET', P .. 'key')
if announced and not replace then return { 'sealed', announced, redis.call('GET', P .. 'retiring') or '' } end

local since = int(now_ms() - rule('orphan_ms'))
local used = redis.call('EXISTS', P .. 'deadlines') == 1
  or redis.call('ZCOUNT', P .. 'clients', since, '+inf') > 0
  or redis.call('ZCOUNT', P .. 'workers', since, '+inf') > 0
if ids == '' or (used and not replace) then return { 'open', ids, '' } end
redis.call('SET', P .. 'key', ids)
put(P .. 'retiring', retiring)
put(P .. 'prepared', prepared)
return { 'sealed', ids, retiring }
