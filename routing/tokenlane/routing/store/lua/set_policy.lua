-- Writes the pool's policy, unless it was changed since the caller read it. One that is there already stays as it is.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 revision the caller has read, or '' for any  2 document, JSON  3... names and values of what scripts read
-- reply {'set', its revision} | {'changed', the revision that is there}

begin()
local policy = P .. 'policy'
local revision = tonumber(redis.call('HGET', policy, 'revision') or 0)
if redis.call('HGET', policy, 'document') == ARGV[2] then return { 'set', revision } end
if ARGV[1] ~= '' and tonumber(ARGV[1]) ~= revision then return { 'changed', revision } end

redis.call('DEL', policy)
redis.call('HSET', policy, 'revision', int(revision + 1), 'document', ARGV[2], unpack(ARGV, 3))
ring()
return { 'set', revision + 1 }
