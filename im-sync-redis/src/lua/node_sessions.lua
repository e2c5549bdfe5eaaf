-- The sessions of a node, where they are not as many as they should be.
-- KEYS[1]  sorted set: a session, by when it was noted, in ms of this server's clock
-- ARGV[1]  how long the set is kept, in ms; [2] how many there should be
-- Returns  the time now; 0 where there are so many; else 1, then each session, followed by when it was noted.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local answer = {now, 0}
if redis.call('ZCARD', KEYS[1]) ~= tonumber(ARGV[2]) then
    answer[2] = 1
    for _, value in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')) do
        answer[#answer + 1] = value
    end
end
return answer
