-- Messages on channels, in order. One command and one reply for all of them: a third of the sender's CPU.
--
-- KEYS  1 the pool's prefix
-- ARGV  for each message: channel, message
-- reply 'ok'

for i = 1, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end
return 'ok'
