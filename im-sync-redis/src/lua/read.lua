-- Reads records after a position.
-- KEYS: the log's hash, its records
-- ARGV: epoch, offset, most records
-- Answer: 'trimmed' with epoch and offset; or 'ok' with, for each record, its id and its value, until they are 4 MiB
local trimmed = redis.call('HMGET', KEYS[1], 'trimmed_epoch', 'trimmed_offset')
if trimmed[1] then
  local epoch, offset = tonumber(trimmed[1]), tonumber(trimmed[2])
  local asked = tonumber(ARGV[1])
  if asked < epoch or (asked == epoch and tonumber(ARGV[2]) < offset) then
    return {'trimmed', trimmed[1], trimmed[2]}
  end
end
local answer, bytes = {'ok'}, 0
local after, most = '(' .. ARGV[1] .. '-' .. ARGV[2], tonumber(ARGV[3])
while most > 0 and bytes < 4194304 do
  local page = math.min(most, 100)
  local there = redis.call('XRANGE', KEYS[2], after, '+', 'COUNT', page)
  for _, record in ipairs(there) do
    answer[#answer + 1] = record[1]
    answer[#answer + 1] = record[2][2]
    bytes = bytes + #record[2][2]
    after = '(' .. record[1]
  end
  if #there < page then break end
  most = most - page
end
return answer
