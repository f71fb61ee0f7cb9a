-- Reads requests for operators, without their envelopes and payloads. store/request_records.py parses the reply.
--
-- uses  places
-- KEYS  1 the pool's prefix
-- ARGV  1 id of a request, then more ids; callers send at most 100 in all
-- reply {now ms, then for each id that the server knows {id, {field, value, ...} of the hash `request:ID`, place as `place_of` in
--       places.lua returns it, ms until a delayed request waits again or 0, the pool keeps the payload of the failed request: 0
--       or 1}}

local now, queues = now_ms(), {}
local reply = { now }
for _, id in ipairs(ARGV) do
  local request = read_request(id)
  if request then
    local delayed = tonumber(redis.call('ZSCORE', P .. 'delayed', id) or now)
    reply[#reply + 1] = { id, redis.call('HGETALL', P .. 'request:' .. id), place_of(id, request, queues),
      math.max(0, delayed - now), redis.call('EXISTS', P .. 'kept:' .. id) }
  end
end
return reply
