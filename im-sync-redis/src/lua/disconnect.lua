-- Removes a session of a user.
-- KEYS[1]  hash: session -> what it is, as connect.lua says
-- ARGV[1]  the session; [2] the node that it must be of, or empty: any; [3] 1 where one that was displaced goes, too
-- Returns  the node that it was of; nothing where none was removed.
local packed = redis.call('HGET', KEYS[1], ARGV[1])
if not packed then
    return false
end
local displaced, number, life, call, by, node = struct.unpack('>BI8I8c16c16Bc0', packed)
if (ARGV[2] ~= '' and node ~= ARGV[2]) or (displaced == 1 and ARGV[3] ~= '1') then
    return false
end
redis.call('HDEL', KEYS[1], ARGV[1])
return node
