-- The schema of one chat file. Times are milliseconds since 1970-01-01 UTC.

PRAGMA application_id = 0x494d4442; -- 'IMDB'

-- What the data in this file are; another incarnation means that acked data may be missing (a restored copy).
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    incarnation TEXT NOT NULL
) STRICT;

-- The log and the store at once: every record, written once, in log order. `id` is the offset of its log position.
CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    conversation_id TEXT NOT NULL,
    sequence_id INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    send_from TEXT NOT NULL,          -- '' where no user sent it
    device TEXT,
    send_to TEXT,
    client_msg_id TEXT NOT NULL,
    hole_after INTEGER,
    kind INTEGER NOT NULL,
    content_type TEXT NOT NULL,
    content TEXT NOT NULL,
    content_hash INTEGER NOT NULL,
    log_partition INTEGER,            -- the position in a log that is not this file; null for this file's own records
    log_epoch INTEGER,
    log_offset INTEGER
) STRICT;

-- One name, one message, for ever. The client's id comes first: it begins with the time (UUIDv7), so that new keys are
-- written to one end of the index and not to a page of their own each.
CREATE UNIQUE INDEX messages_send_key ON messages (client_msg_id, conversation_id, send_from);

CREATE UNIQUE INDEX messages_log_position ON messages (log_partition, log_epoch, log_offset)
    WHERE log_partition IS NOT NULL;

-- The changes of members, few as they are: to see at once whether one is not applied yet.
CREATE INDEX messages_members ON messages (conversation_id, sequence_id) WHERE kind = 3;

-- The order of each conversation's records, and behind them (sequence_id = 2^63-1) the read marks of its users. Both in one
-- tree because a message changes both: they share a page.
CREATE TABLE timelines (
    conversation_id TEXT NOT NULL,
    sequence_id INTEGER NOT NULL,
    main_user TEXT NOT NULL,          -- '' in a record's row
    device TEXT NOT NULL,             -- '' in a record's row, and in the mark that all devices share
    ordinal INTEGER NOT NULL,
    message INTEGER,                  -- messages.id, in a record's row
    mark INTEGER,                     -- the sequence id up to which was read, in a mark's row
    PRIMARY KEY (conversation_id, sequence_id, main_user, device)
) STRICT, WITHOUT ROWID;

CREATE VIEW read_marks AS
    SELECT main_user, conversation_id, device, mark AS sequence_id, ordinal
    FROM timelines WHERE sequence_id = 9223372036854775807;

CREATE TABLE conversation_facts (
    id TEXT PRIMARY KEY,
    type TEXT NOT NULL CHECK (type IN ('SINGLE', 'GROUP')),
    name TEXT,
    low_user TEXT,                    -- the two of a SINGLE, sorted
    high_user TEXT,
    created_at INTEGER NOT NULL,
    large_since INTEGER               -- the record that switched it to read diffusion
) STRICT, WITHOUT ROWID;

-- What changes with each message is derived: to write it with each message would take a page of its own each.
CREATE VIEW conversations AS
    SELECT c.id, c.name, t.sequence_id AS last_message_id, c.type,
           CASE c.type WHEN 'SINGLE' THEN json_array(c.low_user, c.high_user) END AS users,
           c.created_at, coalesce(m.created_at, c.created_at) AS updated_at
    FROM conversation_facts c
    LEFT JOIN timelines t ON t.conversation_id = c.id AND t.main_user = '' AND t.sequence_id =
        (SELECT max(sequence_id) FROM timelines WHERE conversation_id = c.id AND sequence_id < 9223372036854775807)
    LEFT JOIN messages m ON m.id = t.message;

-- The place of the last change applied to each conversation's members.
CREATE TABLE applied (
    conversation_id TEXT PRIMARY KEY,
    sequence_id INTEGER NOT NULL,
    ordinal INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The intervals in which a user is a member, of SINGLE conversations too. Role and settings are the same in all of a user's
-- rows of one conversation.
CREATE TABLE group_members (
    conversation_id TEXT NOT NULL,
    main_user TEXT NOT NULL,
    joined INTEGER NOT NULL,          -- the joining record
    joined_ordinal INTEGER NOT NULL,  -- before it
    left_after INTEGER,               -- the leaving record; null while a member
    left_ordinal INTEGER,
    role TEXT NOT NULL,
    nickname TEXT,
    conversation_show INTEGER NOT NULL DEFAULT 1,
    undisturbed INTEGER NOT NULL DEFAULT 0,
    cleared INTEGER NOT NULL DEFAULT 0,
    cleared_ordinal INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (conversation_id, main_user, joined)
) STRICT, WITHOUT ROWID;

CREATE INDEX group_members_of_user ON group_members (main_user, conversation_id, joined);

-- The version of a user's state at which each conversation last changed; the highest is the user's present version.
CREATE TABLE state_changes (
    main_user TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (main_user, conversation_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX state_changes_in_order ON state_changes (main_user, version);

CREATE TABLE devices (
    main_user TEXT NOT NULL,
    device TEXT NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (main_user, device)
) STRICT, WITHOUT ROWID;

-- The epochs of this file's own log: the records from first_offset on belong to the epoch.
CREATE TABLE log_epochs (
    epoch INTEGER PRIMARY KEY,
    incarnation TEXT NOT NULL,
    first_offset INTEGER NOT NULL,
    began INTEGER NOT NULL
) STRICT;

-- The epochs that this file, as a store, gave to the incarnations of its log.
CREATE TABLE store_epochs (
    epoch INTEGER PRIMARY KEY,
    incarnation TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE checkpoints (
    projection TEXT NOT NULL,         -- 'store' or 'inbox'
    partition INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    rewind_epoch INTEGER NOT NULL,
    rewind_offset INTEGER NOT NULL,
    log TEXT NOT NULL,                -- the incarnations it was made under
    store TEXT NOT NULL,
    inbox TEXT NOT NULL,
    PRIMARY KEY (projection, partition)
) STRICT, WITHOUT ROWID;

-- The sync inbox: which records stand in whose timeline. The message's fields are those of `messages`.
CREATE TABLE inbox (
    user_id TEXT NOT NULL,
    message INTEGER NOT NULL,         -- messages.id
    PRIMARY KEY (user_id, message)
) STRICT, WITHOUT ROWID;

-- Where each inbox begins: its newest expired entry; 0 where nothing expired yet, and then a row is there only for a user who
-- has asked for a cursor before anything came.
CREATE TABLE inbox_starts (
    user_id TEXT PRIMARY KEY,
    message INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- When entries were delivered: which of them within each span of time.
CREATE TABLE inbox_deliveries (
    delivered_at INTEGER PRIMARY KEY, -- the beginning of the span
    lowest INTEGER NOT NULL,
    highest INTEGER NOT NULL
) STRICT;
