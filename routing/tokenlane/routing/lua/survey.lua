-- What a router decides on, read at one moment: the head of every queue, and every lane.
--
-- KEYS  1 the pool's prefix
-- reply {now ms, policy revision, heads, lanes}
--       head: {queue, agent, id, newest attempt so far, more waits behind it: 0 or 1, sequence of the queue's last
--       dispatch, ms waited}
--       lane: {name, provider, endpoint, models JSON, limit, queued, workers that take work, last beat ms, offer JSON,
--       queued to embed, queued commands}

local now = now_ms()
local since = int(now - rule('lease_ms'))
local heads, lanes = {}, {}
for _, name in ipairs(redis.call('SMEMBERS', P .. 'queues')) do
  local queue = P .. 'queue:' .. name
  local agent = redis.call('ZRANGE', queue .. ':agents', 0, 0)[1]
  local id = agent and redis.call('ZRANGE', queue .. ':agent:' .. agent, 0, 0)[1]
  if id then
    local more = redis.call('ZCARD', queue .. ':agents') > 1 or redis.call('ZCARD', queue .. ':agent:' .. agent) > 1
    local created, attempt = unpack(redis.call('HMGET', P .. 'request:' .. id, 'created', 'attempt'))
    heads[#heads + 1] = { name, agent, id, tonumber(attempt or 0), more and 1 or 0,
      tonumber(redis.call('HGET', queue .. ':clock', 'served') or 0), now - tonumber(created or now) }
  end
end
for _, name in ipairs(redis.call('ZRANGE', P .. 'lanes', 0, -1)) do
  local state = redis.call('HMGET', P .. 'lane:' .. name .. ':state', 'provider', 'endpoint', 'models', 'limit', 'seen',
    'offer')
  if state[1] then
    local workers = redis.call('ZCOUNT', P .. 'lane:' .. name .. ':workers', since, '+inf')
    lanes[#lanes + 1] = { name, state[1], state[2], state[3], tonumber(state[4]),
      redis.call('ZCARD', lane_queue(name, 'chat')), workers, tonumber(state[5]), state[6] or '{}',
      redis.call('ZCARD', lane_queue(name, 'embed')), redis.call('ZCARD', lane_queue(name, 'command')) }
  end
end
return { now, tonumber(redis.call('HGET', P .. 'policy', 'revision') or 0), heads, lanes }
