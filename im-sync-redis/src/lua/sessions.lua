-- The sessions of a user, all of them.
-- KEYS[1]  hash: session -> what it is, as connect.lua says
-- Returns  each session, followed by what it is.
return redis.call('HGETALL', KEYS[1])
