-- Adds a session of a user, unless its slot is full and it is to be refused.
-- KEYS[1]  hash: session -> u8 1 if displaced else 0, u64 number in the order of connects, u64 life of the node, 16 bytes that name the
--          call that connected it, 16 bytes that name the call that displaced it, u8 and node, u8 and device, u8 and platform,
--          u32 and slot
-- ARGV[1]  the session; [2] 16 bytes that name this call; [3] node; [4] its life; [5] device; [6] platform; [7] slot;
--          [8] how many the slot holds; [9] 1 where a full slot refuses; [10] how long the hash is kept, in ms;
--          [11 ...] dead lives: u64 life and node
-- Returns  {1, each displaced session followed by what it is ...}, oldest first; {0} when it is refused, {2} when it is refused and there
--          from an earlier call. The same call again returns the same.
local function parse(session, packed)
    local e = {session = session, packed = packed}
    local device, platform
    e.displaced, e.number, e.life, e.call, e.by, e.node, device, platform, e.slot =
        struct.unpack('>BI8I8c16c16Bc0Bc0Bc0I4c0', packed)
    return e
end
local function older(a, b)
    return a.number < b.number
end
local function answer(displaced)
    table.sort(displaced, older)
    local answer = {1}
    for _, e in ipairs(displaced) do
        answer[#answer + 1] = e.session
        answer[#answer + 1] = e.packed
    end
    return answer
end

local session, call, slot = ARGV[1], ARGV[2], ARGV[7]
local dead = {}
for i = 11, #ARGV do
    dead[ARGV[i]] = true
end
local all = redis.call('HGETALL', KEYS[1])
local number, own, rivals, before, gone = 1, nil, {}, {}, {}
for i = 1, #all, 2 do
    local e = parse(all[i], all[i + 1])
    number = math.max(number, e.number + 1)
    if e.by == call then
        before[#before + 1] = e
    end
    if e.session == session then
        own = e
    elseif dead[struct.pack('>I8', e.life) .. e.node] then
        gone[#gone + 1] = e.session
    elseif e.displaced == 0 and e.slot == slot then
        rivals[#rivals + 1] = e
    end
end
if own and own.call == call then
    return answer(before)
end
for _, other in ipairs(gone) do
    redis.call('HDEL', KEYS[1], other)
end
local over = #rivals + 1 - tonumber(ARGV[8])
if over > 0 and ARGV[9] == '1' then
    return {own and 2 or 0}
end
table.sort(rivals, older)
local displaced = {}
for i = 1, over do
    local e = rivals[i]
    displaced[i] = e
    local head = struct.pack('>BI8I8c16c16', 1, e.number, e.life, e.call, call)
    redis.call('HSET', KEYS[1], e.session, head .. string.sub(e.packed, #head + 1))
end
local packed = struct.pack('>BI8I8c16c16', 0, number, tonumber(ARGV[4]), call, string.rep('\0', 16))
    .. struct.pack('>Bc0Bc0Bc0I4c0', #ARGV[3], ARGV[3], #ARGV[5], ARGV[5], #ARGV[6], ARGV[6], #slot, slot)
redis.call('HSET', KEYS[1], session, packed)
redis.call('PEXPIRE', KEYS[1], ARGV[10])
return answer(displaced)
