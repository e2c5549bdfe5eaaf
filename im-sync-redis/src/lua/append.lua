-- Appends a batch to one partition: numbers, dedupes, stores, all or nothing of each send.
-- KEYS: the log's hash, its records, its heads, then the name of each send
-- ARGV: epoch, dedupe window in ms, epoch gap; then for each send: conversation, floor, 1 if it counts, content hash, record
--   floor: empty, or >I8I8I8B of sequence id, ordinal, time in ms, 1 if direct
-- A place (head, receipt): >I8I8I8I4I8 of sequence id, ordinal, time in ms, epoch, offset.
-- Answer: 'ok' with one text for each send: A or D with its place, C conflict, U unseeded; or 'none', 'stale' with the open epoch,
--   'other' with the server's name
local PLACE = '>I8I8I8I4I8'
local CHUNK = 500
local log = redis.call('HMGET', KEYS[1], 'epoch', 'incarnation', 'first', 'offset')
local epoch = tonumber(ARGV[1])
if not log[1] then return {'none'} end
if tonumber(log[1]) ~= epoch then return {'stale', log[1]} end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. '.' ..
  string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if not string.find(log[2], run, 1, true) then return {'other', run} end

local function many(command, first, names)
  local found = {}
  for from = 1, #names, CHUNK do
    local chunk = {unpack(names, from, math.min(from + CHUNK - 1, #names))}
    if first then table.insert(chunk, 1, first) end
    for at, value in ipairs(redis.call(command, unpack(chunk))) do found[from + at - 1] = value end
  end
  return found
end

local count = #KEYS - 3
local names, conversations = {}, {}
for at = 1, count do
  names[at] = KEYS[3 + at]
  conversations[at] = ARGV[4 + (at - 1) * 5]
end
local known = many('MGET', nil, names)
local ends = many('HMGET', KEYS[3], conversations)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local gap = tonumber(ARGV[3])
local first = tonumber(log[3])
local offset = tonumber(log[4]) or 0
local taken, heads, answers = {}, {}, {'ok'}

-- Where the next record of a conversation goes, the earliest time that it may bear, and the hole that it declares, plus one.
local function place(head, floor, counts)
  local seq, ordinal, created
  if head then
    local its
    seq, ordinal, created, its = struct.unpack(PLACE, head)
    if its == epoch then return seq + 1, ordinal + counts, created, 0 end
  end
  if floor == '' then return nil end
  local floor_seq, floor_ordinal, floor_created, direct = struct.unpack('>I8I8I8B', floor)
  if head then
    direct = 0
    floor_seq = math.max(floor_seq, seq)
    floor_ordinal = math.max(floor_ordinal, ordinal)
    floor_created = math.max(floor_created, created)
  end
  if direct == 1 and first == epoch then
    return floor_seq + 1, floor_ordinal + counts, floor_created, 0
  end
  return math.max(floor_seq + gap, epoch * gap), floor_ordinal + counts, floor_created, floor_seq + 1
end

for at = 1, count do
  local base = 4 + (at - 1) * 5
  local name, conversation, hash = names[at], conversations[at], ARGV[base + 3]
  local found = taken[name] or known[at]
  if found then
    if string.sub(found, 37) == hash then answers[1 + at] = 'D' .. string.sub(found, 1, 36) else answers[1 + at] = 'C' end
  else
    local seq, ordinal, created, hole =
      place(heads[conversation] or ends[at], ARGV[base + 1], tonumber(ARGV[base + 2]))
    if not seq then
      answers[1 + at] = 'U'
    else
      created = math.max(created, now)
      offset = offset + 1
      local receipt = struct.pack(PLACE, seq, ordinal, created, epoch, offset)
      redis.call('XADD', KEYS[2], ARGV[1] .. '-' .. string.format('%.0f', offset), 'r',
        struct.pack('>I8I8I8I8', seq, ordinal, created, hole) .. ARGV[base + 4])
      redis.call('SET', name, receipt .. hash, 'PX', ARGV[2])
      taken[name] = receipt .. hash
      heads[conversation] = receipt
      answers[1 + at] = 'A' .. receipt
    end
  end
end

local changed = {}
for conversation, head in pairs(heads) do
  changed[#changed + 1] = conversation
  changed[#changed + 1] = head
end
for from = 1, #changed, 2 * CHUNK do
  redis.call('HSET', KEYS[3], unpack(changed, from, math.min(from + 2 * CHUNK - 1, #changed)))
end
if #changed > 0 then
  redis.call('HSET', KEYS[1], 'offset', string.format('%.0f', offset), 'last', ARGV[1])
end
return answers
