-- The sessions of a node, where they are not as many as they should be.
-- KEYS[1]  sorted set: a session, by when it was noted, in µs of this server's clock
-- ARGV[1]  how long the set is kept, in ms; [2] how many there should be, or empty: only the time is asked for
-- Returns  the time now, in µs; 0 where there are so many; else 1, then each session, followed by when it was noted.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local answer = {now, 0}
if ARGV[2] ~= '' and redis.call('ZCARD', KEYS[1]) ~= tonumber(ARGV[2]) then
    answer[2] = 1
    for _, value in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')) do
        answer[#answer + 1] = value
    end
end
return answer
