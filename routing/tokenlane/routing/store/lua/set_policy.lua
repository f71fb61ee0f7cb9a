-- Writes the pool's policy, unless it has changed since the caller read it. If the new document equals the old one, nothing
-- changes, the revision included. Without 'keep_payload', the payloads that were kept are forgotten.
--
-- uses  kept_payloads
-- KEYS  1 the pool's prefix
-- ARGV  1 revision that the caller has read, or '' to write in any case  2 document, JSON
--       3 '1' to keep the payloads of failed requests, '0' otherwise
--       then name and value of each other field that scripts read
-- reply {'set', revision} | {'changed', the pool's revision}
--       | {'unsealed', the pool's revision}: payloads may not be kept, because the pool has no key

begin_with_delete()
local policy = P .. 'policy'
local revision = tonumber(redis.call('HGET', policy, 'revision') or 0)
if redis.call('HGET', policy, 'document') == ARGV[2] then return { 'set', revision } end
if ARGV[1] ~= '' and tonumber(ARGV[1]) ~= revision then return { 'changed', revision } end
if ARGV[3] == '1' and redis.call('EXISTS', P .. 'key') == 0 then return { 'unsealed', revision } end

redis.call('DEL', policy)
redis.call('HSET', policy, 'revision', decimal(revision + 1), 'document', ARGV[2], 'keep_payload', ARGV[3], unpack(ARGV, 4))
if ARGV[3] ~= '1' then forget_payloads(redis.call('ZRANGE', P .. 'kept', 0, -1)) end
ring_routers()
return { 'set', revision + 1 }
