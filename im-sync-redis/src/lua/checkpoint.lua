-- Moves the checkpoint of a partition: forward within a lineage, anywhere in another.
-- KEYS: the checkpoint
-- ARGV: epoch, offset, lineage, checkpoint, the inbox's incarnation
-- Answer: 'ok', or 'other' with the server's name
-- A write that needs no memory comes first: what follows is not refused then where maxmemory is reached. This frees memory in the end.
redis.call('HDEL', KEYS[1], '')
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. '.' ..
  string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if not string.find(ARGV[5], run, 1, true) then return {'other', run} end
local kept = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'lineage')
if kept[3] == ARGV[3] then
  local epoch, kept_epoch = tonumber(ARGV[1]), tonumber(kept[1])
  if kept_epoch > epoch or (kept_epoch == epoch and tonumber(kept[2]) > tonumber(ARGV[2])) then return {'ok'} end
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'offset', ARGV[2], 'lineage', ARGV[3], 'checkpoint', ARGV[4])
return {'ok'}
