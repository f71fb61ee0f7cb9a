-- Drops failed requests, for operators: they are no longer listed, and their payloads are deleted. What `inspect` shows of a request
-- stays for an hour, because its agent may still ask how it ended.
--
-- uses  kept_payloads
-- KEYS  1 the pool's prefix
-- ARGV  1 id of a request, then more ids; callers send at most 100 in all
-- reply number of these requests that failed, including any that had already been dropped

begin_with_delete()
local dropped = 0
for _, id in ipairs(ARGV) do
  local request = P .. 'request:' .. id
  forget_payload(id)
  local state, entry = unpack(redis.call('HMGET', request, 'state', 'failure'))
  if entry then
    redis.call('XDEL', P .. 'failed', entry)
    redis.call('HDEL', request, 'failure')
  end
  if state == 'failed' then dropped = dropped + 1 end
end
return dropped
