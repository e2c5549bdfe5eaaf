-- Opens an epoch in one partition; opening the open one again changes nothing.
-- KEYS: the log's hash
-- ARGV: epoch, incarnation, number of partitions
-- Answer: 'ok', 'stale' with the open epoch, 'other' with the server's name, 'partitions' with how many the log has
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. '.' ..
  string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if not string.find(ARGV[2], run, 1, true) then return {'other', run} end
local log = redis.call('HMGET', KEYS[1], 'epoch', 'incarnation', 'partitions')
if log[3] and log[3] ~= ARGV[3] then return {'partitions', log[3]} end
if log[1] then
  if log[1] == ARGV[1] and log[2] == ARGV[2] then return {'ok'} end
  if tonumber(log[1]) >= tonumber(ARGV[1]) then return {'stale', log[1]} end
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'incarnation', ARGV[2],
  'began', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), 'partitions', ARGV[3])
redis.call('HSETNX', KEYS[1], 'first', ARGV[1])
return {'ok'}
