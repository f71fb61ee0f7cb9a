-- Writes the pool's policy, unless it has changed since the caller read it. An equal policy keeps its revision.
--
-- uses  base
-- KEYS  1 the pool's prefix
-- ARGV  1 revision the caller has read, or '' for any  2 document, JSON  3... names and values that scripts read
-- reply {'set', revision} | {'changed', the revision that the pool has}

begin()
local policy = P .. 'policy'
local revision = tonumber(redis.call('HGET', policy, 'revision') or 0)
if redis.call('HGET', policy, 'document') == ARGV[2] then return { 'set', revision } end
if ARGV[1] ~= '' and tonumber(ARGV[1]) ~= revision then return { 'changed', revision } end

redis.call('DEL', policy)
redis.call('HSET', policy, 'revision', int(revision + 1), 'document', ARGV[2], unpack(ARGV, 3))
ring()
return { 'set', revision + 1 }
