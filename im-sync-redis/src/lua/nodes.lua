-- The living nodes.
-- KEYS[1]  hash: node -> u64 end of its time, u64 life, both ms of this server's clock
-- Returns  the living nodes, each followed by its life.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local living = {}
local nodes = redis.call('HGETALL', KEYS[1])
for i = 1, #nodes, 2 do
    local ends, life = struct.unpack('>I8I8', nodes[i + 1])
    if ends > now then
        living[#living + 1] = nodes[i]
        living[#living + 1] = life
    end
end
return living
