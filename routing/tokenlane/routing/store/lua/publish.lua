-- Publishes messages on channels, in order. This costs the sender less than half of what a pipeline of PUBLISH commands costs,
-- because the server sends one reply.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 channel  2 message  then channel and message of each further message
-- reply 'ok'

for i = 1, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end
return 'ok'
