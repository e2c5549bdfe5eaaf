-- Which sessions of a user that a node holds are not its own any more.
-- KEYS[1]  hash: session -> what it is, as connect.lua says
-- ARGV[1]  the node; [2] its life; [3] how long the hash is kept, in ms; [4 ...] the sessions
-- Returns  for each that is not its own: its place among the sessions, from 0; 0 if it is not known, 1 if it was displaced; then how many
--          sessions are in its slot, and of each the node and its life.
local function parse(packed)
    local e = {}
    local number, call, by, device, platform
    e.displaced, number, e.life, call, by, e.node, device, platform, e.slot =
        struct.unpack('>BI8I8c16c16Bc0Bc0Bc0I4c0', packed)
    return e
end

local gone = {}
local function add(value)
    gone[#gone + 1] = value
end
local all = nil
local life = tonumber(ARGV[2])
for i = 4, #ARGV do
    local packed = redis.call('HGET', KEYS[1], ARGV[i])
    local e = packed and parse(packed)
    if not e or e.node ~= ARGV[1] then
        add(i - 4)
        add(0)
        add(0)
    elseif e.displaced == 1 then
        local rivals = {}
        all = all or redis.call('HVALS', KEYS[1])
        for _, other in ipairs(all) do
            local r = parse(other)
            if r.displaced == 0 and r.slot == e.slot then
                rivals[#rivals + 1] = r
            end
        end
        add(i - 4)
        add(1)
        add(#rivals)
        for _, r in ipairs(rivals) do
            add(r.node)
            add(r.life)
        end
    elseif e.life ~= life then
        redis.call('HDEL', KEYS[1], ARGV[i])
        add(i - 4)
        add(0)
        add(0)
    end
end
-- Not at each beat: it is a write.
local left = redis.call('PTTL', KEYS[1])
if left ~= -2 and left < tonumber(ARGV[3]) / 2 then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return gone
