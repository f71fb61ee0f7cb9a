-- Writes the pool's policy, unless the policy has changed since the caller read it. Writing an equal policy does not change
-- the revision.
--
-- uses  base
-- KEYS  1 the pool's prefix
-- ARGV  1 revision that the caller has read, or '' for any  2 document, JSON  3... names and values of fields that scripts read
-- reply {'set', revision} | {'changed', the pool's revision}

begin()
local policy = P .. 'policy'
local revision = tonumber(redis.call('HGET', policy, 'revision') or 0)
if redis.call('HGET', policy, 'document') == ARGV[2] then return { 'set', revision } end
if ARGV[1] ~= '' and tonumber(ARGV[1]) ~= revision then return { 'changed', revision } end

redis.call('DEL', policy)
redis.call('HSET', policy, 'revision', int(revision + 1), 'document', ARGV[2], unpack(ARGV, 3))
ring()
return { 'set', revision + 1 }
