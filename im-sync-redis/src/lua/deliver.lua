-- Writes entries to the inboxes of users.
-- KEYS: the inboxes
-- ARGV: expiry in ms, most entries; then for each inbox nonces and references of its entries (4 and 12 bytes each)
-- An entry: >I6 of the time in ms, nonce, reference. Times do not fall.
-- Answer: for each inbox time and nonce of the entry before, or '' where there is none, and the time of the new ones
-- A write that needs no memory comes first: what follows is not refused then where maxmemory is reached. This frees memory in the end.
redis.call('LTRIM', KEYS[1], 0, -1)
local expiry, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local present = time[1] * 1000 + math.floor(time[2] / 1000)

local function deliver(inbox, packed)
  local last = redis.call('LINDEX', inbox, -1)
  local previous, now = '', present
  if last then
    previous = string.sub(last, 1, 10)
    -- A clock that is turned back must not make an entry older than one before it.
    now = math.max(now, (struct.unpack('>I6', last)))
  end
  local count = #packed / 16
  local stamp, entries = struct.pack('>I6', now), {}
  local length = 0
  for at = 1, count do
    entries[#entries + 1] = stamp .. string.sub(packed, at * 16 - 15, at * 16)
    if #entries == 500 or at == count then
      length = redis.call('RPUSH', inbox, unpack(entries))
      entries = {}
    end
  end
  -- What is too old goes, some at a time, and what is too much.
  for _ = 1, math.min(count + 16, length) do
    local written = struct.unpack('>I6', redis.call('LINDEX', inbox, 0))
    if written + expiry >= now then break end
    redis.call('LPOP', inbox)
    length = length - 1
  end
  if length > most then redis.call('LTRIM', inbox, length - most, -1) end
  redis.call('PEXPIRE', inbox, expiry)
  return previous, now
end

local answer = {}
for at, inbox in ipairs(KEYS) do
  answer[2 * at - 1], answer[2 * at] = deliver(inbox, ARGV[2 + at])
end
return answer
