-- Publishes messages on channels, in order. A script has one reply, so it costs the sender less than half as much as a
-- pipeline of PUBLISH commands.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 channel  2 message  and so on for each message
-- reply 'ok'

for i = 1, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end
return 'ok'
