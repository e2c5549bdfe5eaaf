-- Removes records that no hold and no dedupe window needs, some at a time.
-- KEYS: the log's hash, its records, the holds
-- ARGV: dedupe window in ms, most records
-- Answer: 1 if there may be more to do, else 0
local epoch, offset
for _, held in ipairs(redis.call('HVALS', KEYS[3])) do
  local its_epoch, its_offset = string.match(held, '(%d+)-(%d+)')
  its_epoch, its_offset = tonumber(its_epoch), tonumber(its_offset)
  if not epoch or its_epoch < epoch or (its_epoch == epoch and its_offset < offset) then
    epoch, offset = its_epoch, its_offset
  end
end
-- What nobody holds is kept: its reader may not have started yet.
if not epoch then return 0 end
local time = redis.call('TIME')
local before = time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(ARGV[1])
local most = tonumber(ARGV[2])
local last
local there = redis.call('XRANGE', KEYS[2], '-', string.format('%.0f-%.0f', epoch, offset), 'COUNT', most)
for _, record in ipairs(there) do
  local _, _, created = struct.unpack('>I8I8I8', record[2][2])
  if created >= before then break end
  last = record[1]
end
if not last then return 0 end
local trimmed_epoch, trimmed_offset = string.match(last, '(%d+)-(%d+)')
redis.call('XTRIM', KEYS[2], 'MINID', string.format('%s-%.0f', trimmed_epoch, tonumber(trimmed_offset) + 1))
redis.call('HSET', KEYS[1], 'trimmed_epoch', trimmed_epoch, 'trimmed_offset', trimmed_offset)
if last == there[#there][1] and #there == most then return 1 end
return 0
