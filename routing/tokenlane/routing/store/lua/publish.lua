-- Messages on channels, in order. One command and one reply for all: where many go at once, that costs the sender
-- less than half of a pipeline of PUBLISH.
--
-- KEYS  1 the pool's prefix
-- ARGV  1 channel  2 message  and so on for each of them
-- reply 'ok'

for i = 1, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end
return 'ok'
