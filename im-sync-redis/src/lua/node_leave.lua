-- Sessions are not of a node any more.
-- KEYS[1]  sorted set: a session, by when it was noted, in µs of this server's clock
-- ARGV     each session, followed by when it was noted, or empty: whenever. One that was noted again stays.
local left = 0
for i = 1, #ARGV, 2 do
    if ARGV[i + 1] == '' or redis.call('ZSCORE', KEYS[1], ARGV[i]) == ARGV[i + 1] then
        left = left + redis.call('ZREM', KEYS[1], ARGV[i])
    end
end
return left
