-- Reads the entries after one, if that is there as it was.
-- KEYS: the inbox
-- ARGV: time and nonce of the entry, most entries
-- Answer: false, or 1 if there are more, else 0, and the entries
local time = struct.unpack('>I6', ARGV[1])
-- The first entry of that time.
local low, high = 0, redis.call('LLEN', KEYS[1])
while low < high do
  local middle = math.floor((low + high) / 2)
  if struct.unpack('>I6', redis.call('LINDEX', KEYS[1], middle)) < time then
    low = middle + 1
  else
    high = middle
  end
end
-- Where the clock was turned back many may have one time.
local found = false
while not found do
  local page = redis.call('LRANGE', KEYS[1], low, low + 499)
  if #page == 0 then return false end
  for at, entry in ipairs(page) do
    if struct.unpack('>I6', entry) ~= time then return false end
    if string.sub(entry, 1, 10) == ARGV[1] then
      low = low + at - 1
      found = true
      break
    end
  end
  if not found then low = low + #page end
end
local most = tonumber(ARGV[2])
local answer = redis.call('LRANGE', KEYS[1], low + 1, low + 1 + most)
local more = 0
if #answer > most then
  more = 1
  answer[#answer] = nil
end
table.insert(answer, 1, more)
return answer
