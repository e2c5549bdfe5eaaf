-- The sessions of users, all of them.
-- KEYS     hashes: session -> what it is, as connect.lua says
-- Returns  for each hash each session, followed by what it is.
local all = {}
for at, key in ipairs(KEYS) do
    all[at] = redis.call('HGETALL', key)
end
return all
