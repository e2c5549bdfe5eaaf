-- Notes that sessions are of a node.
-- KEYS[1]  sorted set: a session, by when it was noted, in µs of this server's clock
-- ARGV[1]  how long the set is kept, in ms; [2 ...] the sessions
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
for i = 2, #ARGV do
    redis.call('ZADD', KEYS[1], now, ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return #ARGV - 1
