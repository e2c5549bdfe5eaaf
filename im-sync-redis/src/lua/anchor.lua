-- The end of an inbox; an empty one gets an entry that refers to nothing.
-- KEYS: the inbox
-- ARGV: expiry in ms, nonce (4 bytes)
-- Answer: time and nonce of the last entry
local last = redis.call('LINDEX', KEYS[1], -1)
if not last then
  local time = redis.call('TIME')
  last = struct.pack('>I6', time[1] * 1000 + math.floor(time[2] / 1000)) .. ARGV[2]
  redis.call('RPUSH', KEYS[1], last)
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return string.sub(last, 1, 10)
