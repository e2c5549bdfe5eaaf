-- Moves the hold of a projection forward.
-- KEYS: the holds
-- ARGV: projection, epoch, offset
-- A write that needs no memory comes first: what follows is not refused then where maxmemory is reached. This frees memory in the end.
redis.call('HDEL', KEYS[1], '')
local held = redis.call('HGET', KEYS[1], ARGV[1])
local epoch, offset = tonumber(ARGV[2]), tonumber(ARGV[3])
if held then
  local held_epoch, held_offset = string.match(held, '(%d+)-(%d+)')
  held_epoch, held_offset = tonumber(held_epoch), tonumber(held_offset)
  if held_epoch > epoch or (held_epoch == epoch and held_offset >= offset) then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. '-' .. ARGV[3])
return 1
