-- A node lives: renews its time, or begins another life of it where its time has ended.
-- KEYS[1]  hash: node -> u64 end of its time, u64 life, both ms of this server's clock
-- ARGV[1]  the node; [2] the TTL in ms
-- Returns  the living nodes, each followed by its life; this one first.
-- A write that needs no memory comes first: what follows is not refused then where maxmemory is reached. This frees memory in the end.
redis.call('HDEL', KEYS[1], '')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl = tonumber(ARGV[2])
local life = now
local living = {}
local nodes = redis.call('HGETALL', KEYS[1])
for i = 1, #nodes, 2 do
    local ends, known = struct.unpack('>I8I8', nodes[i + 1])
    if nodes[i] == ARGV[1] then
        if ends > now then
            life = known
        else
            -- Another one than the last, also where the clock was turned back.
            life = math.max(now, known + 1)
        end
    elseif ends > now then
        living[#living + 1] = nodes[i]
        living[#living + 1] = known
    elseif ends <= now - 10 * ttl then
        redis.call('HDEL', KEYS[1], nodes[i])
    end
end
redis.call('HSET', KEYS[1], ARGV[1], struct.pack('>I8I8', now + ttl, life))
redis.call('PEXPIRE', KEYS[1], 20 * ttl)
table.insert(living, 1, life)
table.insert(living, 1, ARGV[1])
return living
