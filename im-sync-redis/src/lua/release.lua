-- Gives a lease back, if the node has it.
-- KEYS[1]  string: who has it
-- ARGV[1]  the node
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
