-- Writes entries to the inbox of a user.
-- KEYS: the inbox
-- ARGV: expiry in ms, most entries, nonces and references of the entries (4 and 12 bytes each)
-- An entry: >I6 of the time in ms, nonce, reference. Times do not fall.
-- Answer: time and nonce of the entry before, or '' where there is none; the time of the new ones
local expiry, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = redis.call('LINDEX', KEYS[1], -1)
local previous = ''
if last then
  previous = string.sub(last, 1, 10)
  -- A clock that is turned back must not make an entry older than one before it.
  now = math.max(now, (struct.unpack('>I6', last)))
end
local count = #ARGV[3] / 16
local stamp, entries = struct.pack('>I6', now), {}
for at = 1, count do
  entries[#entries + 1] = stamp .. string.sub(ARGV[3], at * 16 - 15, at * 16)
  if #entries == 500 or at == count then
    redis.call('RPUSH', KEYS[1], unpack(entries))
    entries = {}
  end
end
-- What is too old goes, some at a time, and what is too much.
for _ = 1, count + 16 do
  local written = struct.unpack('>I6', redis.call('LINDEX', KEYS[1], 0))
  if written + expiry >= now then break end
  redis.call('LPOP', KEYS[1])
end
local over = redis.call('LLEN', KEYS[1]) - most
if over > 0 then redis.call('LTRIM', KEYS[1], over, -1) end
redis.call('PEXPIRE', KEYS[1], expiry)
return {previous, now}
