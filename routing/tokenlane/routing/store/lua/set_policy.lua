-- Writes the pool's policy, unless it has changed since the caller read it. If the new document equals the old one, nothing
-- changes, the revision included.
--
-- uses  base
-- KEYS  1 the pool's prefix
-- ARGV  1 revision that the caller has read, or '' to write in any case  2 document, JSON
--       then name and value of each field that scripts read
-- reply {'set', revision} | {'changed', the pool's revision}

begin_with_delete()
local policy = P .. 'policy'
local revision = tonumber(redis.call('HGET', policy, 'revision') or 0)
if redis.call('HGET', policy, 'document') == ARGV[2] then return { 'set', revision } end
if ARGV[1] ~= '' and tonumber(ARGV[1]) ~= revision then return { 'changed', revision } end

redis.call('DEL', policy)
redis.call('HSET', policy, 'revision', decimal(revision + 1), 'document', ARGV[2], unpack(ARGV, 3))
ring_routers()
return { 'set', revision + 1 }
