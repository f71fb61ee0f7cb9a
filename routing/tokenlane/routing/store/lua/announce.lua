-- Reads the ids of the keys that seal the pool's requests, and sets them if the pool has no keys and nobody uses it yet. With
-- 'replace', sets them in any case. Lists of ids are separated by spaces, the newest first.
--
-- uses  base
-- KEYS  1 the pool's prefix
-- ARGV  1 ids of the caller's keys, or '' only to read  2 'replace' | ''
--       3 ids of retiring keys, which no longer seal but still unseal waiting requests
--       4 ids of prepared keys, which do not seal yet
--       3 and 4 are ignored unless the script sets the ids
-- reply {'sealed', ids of the pool's keys, ids of its retiring keys}
--       | {'open', the given ids, ''}: the pool stays without keys, because no ids were given or because it is in use

local ids, replace, retiring, prepared = ARGV[1], ARGV[2] == 'replace', ARGV[3], ARGV[4]
-- Sets a key, or deletes it if the value is ''.
local function set_or_delete(key, value)
  if value == '' then redis.call('DEL', key) else redis.call('SET', key, value) end
end

local announced = redis.call('GET', P .. 'key')
if announced and not replace then return { 'sealed', announced, redis.call('GET', P .. 'retiring') or '' } end

local since = decimal(now_ms() - policy_rule('orphan_ms'))
local in_use = redis.call('EXISTS', P .. 'deadlines') == 1
  or redis.call('ZCOUNT', P .. 'clients', since, '+inf') > 0
  or redis.call('ZCOUNT', P .. 'workers', since, '+inf') > 0
if ids == '' or (in_use and not replace) then return { 'open', ids, '' } end
redis.call('SET', P .. 'key', ids)
set_or_delete(P .. 'retiring', retiring)
set_or_delete(P .. 'prepared', prepared)
return { 'sealed', ids, retiring }
