-- The schema of a chat in Postgres. Times are milliseconds since 1970-01-01 UTC, by the server's clock. Ids are compared bytewise.

-- What the data in this schema are. With the cluster's identity and timeline the name makes the incarnation.
CREATE TABLE meta (
    one int PRIMARY KEY CHECK (one = 1),
    name text NOT NULL,
    partitions smallint NOT NULL -- of the log, and the tables of `messages`: pinned for ever
);

-- The log and the store at once: every record, written once. `part` is the pinned hash of the conversation, so that a timeline
-- lies in one table.
CREATE TABLE messages (
    part smallint NOT NULL,
    conversation_id text COLLATE "C" NOT NULL,
    sequence_id bigint NOT NULL,
    ordinal bigint NOT NULL,
    created_at bigint NOT NULL,
    send_from text COLLATE "C" NOT NULL, -- '' where no user sent it
    device text COLLATE "C",
    send_to text COLLATE "C",
    client_msg_id text COLLATE "C" NOT NULL,
    hole_after bigint,
    kind int NOT NULL,
    content_type text NOT NULL,
    content text NOT NULL,
    content_hash bigint NOT NULL,
    own boolean NOT NULL,                -- a record of this schema's own log, else of another one
    log_partition int NOT NULL,
    log_epoch bigint NOT NULL,
    log_offset bigint NOT NULL,
    PRIMARY KEY (part, conversation_id, sequence_id)
) PARTITION BY LIST (part);

-- One name, one message, for ever. The client's id comes first: it begins with the time (UUIDv7), so that new keys are written to
-- one end of the index.
CREATE UNIQUE INDEX messages_send_key ON messages (part, client_msg_id, conversation_id, send_from);
CREATE INDEX messages_own_log ON messages (part, log_epoch, log_offset) WHERE own;
CREATE INDEX messages_other_log ON messages (log_partition, log_epoch, log_offset) WHERE NOT own;
-- The changes of members, few as they are: to see at once whether one is not applied yet.
CREATE INDEX messages_members ON messages (part, conversation_id, sequence_id) WHERE kind = 3;

-- Where each partition of the own log ends. An append holds the row's lock until it has committed: so no reader can be given an
-- offset before those below it are there.
CREATE TABLE log_partitions (
    partition smallint PRIMARY KEY,
    epoch bigint NOT NULL DEFAULT 0,     -- of the last record
    last_offset bigint NOT NULL DEFAULT 0,
    open_epoch bigint NOT NULL DEFAULT 0, -- the same in all rows, so that the lock of one keeps it as it is
    open_incarnation text NOT NULL DEFAULT '',
    first_epoch bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);

CREATE TABLE log_epochs (
    epoch bigint PRIMARY KEY,
    incarnation text NOT NULL,
    began bigint NOT NULL
);

-- The epochs that this schema, as a store, gave to the incarnations of its log.
CREATE TABLE store_epochs (
    epoch bigint PRIMARY KEY,
    incarnation text NOT NULL UNIQUE
);

-- Conversations, with what moves with each batch of records. `type` is null as long as there are records only.
CREATE TABLE conversations (
    id text COLLATE "C" PRIMARY KEY,
    name text,
    type text CHECK (type IN ('SINGLE', 'GROUP')),
    users text[],                        -- the two of a SINGLE, sorted
    created_at bigint,
    updated_at bigint NOT NULL,          -- of the last record, else created_at
    last_message_id bigint NOT NULL DEFAULT 0,
    last_ordinal bigint NOT NULL DEFAULT 0,
    last_epoch bigint NOT NULL DEFAULT 0, -- of the own log; 0 where the last record is of another one
    large_since bigint                   -- the record that switched it to read diffusion
) WITH (fillfactor = 50);

-- The large groups, few as they are.
CREATE INDEX conversations_large ON conversations (id) WHERE large_since IS NOT NULL;

-- The place of the last change applied to each conversation's members. Whoever applies holds the row's lock until it has committed:
-- a row of its own, or else appends to the conversation would wait for that.
CREATE TABLE applied (
    conversation_id text COLLATE "C" PRIMARY KEY,
    sequence_id bigint NOT NULL,
    ordinal bigint NOT NULL
) WITH (fillfactor = 50);

-- The intervals in which a user is a member, of SINGLE conversations too. Role and settings are the same in all of a user's rows of
-- one conversation.
CREATE TABLE group_members (
    conversation_id text COLLATE "C" NOT NULL,
    main_user text COLLATE "C" NOT NULL,
    joined bigint NOT NULL,              -- the joining record
    joined_ordinal bigint NOT NULL,      -- before it
    left_after bigint,                   -- the leaving record; null while a member
    left_ordinal bigint,
    role text NOT NULL,
    nickname text,
    conversation_show boolean NOT NULL DEFAULT true,
    undisturbed boolean NOT NULL DEFAULT false,
    cleared bigint NOT NULL DEFAULT 0,
    cleared_ordinal bigint NOT NULL DEFAULT 0,
    created_at bigint NOT NULL,
    PRIMARY KEY (conversation_id, main_user, joined)
);
CREATE INDEX group_members_of_user ON group_members (main_user, conversation_id, joined);

CREATE TABLE read_marks (
    conversation_id text COLLATE "C" NOT NULL,
    main_user text COLLATE "C" NOT NULL,
    device text COLLATE "C" NOT NULL,    -- '' in the mark that all devices share
    sequence_id bigint NOT NULL,
    ordinal bigint NOT NULL,
    PRIMARY KEY (conversation_id, main_user, device)
) WITH (fillfactor = 50);

-- The present version of each user's own state. Whoever raises it holds the row's lock until it has committed: so nobody reads a
-- version before the changes below it are there.
CREATE TABLE user_states (
    main_user text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL
);

-- The version at which each conversation last changed in a user's own state.
CREATE TABLE state_changes (
    main_user text COLLATE "C" NOT NULL,
    conversation_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (main_user, conversation_id)
);
CREATE INDEX state_changes_in_order ON state_changes (main_user, version);

CREATE TABLE devices (
    main_user text COLLATE "C" NOT NULL,
    device text COLLATE "C" NOT NULL,
    seen_at bigint NOT NULL,
    PRIMARY KEY (main_user, device)
);
CREATE INDEX devices_seen ON devices (seen_at);

CREATE TABLE checkpoints (
    projection text NOT NULL,            -- 'store' or 'inbox'
    partition int NOT NULL,
    epoch bigint NOT NULL,
    log_offset bigint NOT NULL,
    rewind_epoch bigint NOT NULL,
    rewind_offset bigint NOT NULL,
    log text NOT NULL,                   -- the incarnations it was made under
    store text NOT NULL,
    inbox text NOT NULL,
    PRIMARY KEY (projection, partition)
) WITH (fillfactor = 10);

-- The end of each user's inbox; place 0 is before every entry. Whoever delivers holds the row's lock until it has committed. A nonce is
-- given anew by each delivery, another to each record: a place and its nonce name an entry for ever, also after a lost tail was filled
-- again. Nothing but the key is indexed, so that an update stays on its page.
CREATE TABLE inbox_ends (
    user_id text COLLATE "C" PRIMARY KEY,
    place bigint NOT NULL,
    nonce bigint NOT NULL,
    previous bigint NOT NULL             -- the nonce at the end before the last delivery
) WITH (fillfactor = 50);

-- The sync inbox: who has which record at which place. Places of a user are dense, and each entry knows the nonce of the place before:
-- so a cursor is proven by the entry after it, also when its own has expired. Tables by time of delivery, dropped when they expire;
-- src/spans.rs makes them.
CREATE TABLE inbox (
    delivered bigint NOT NULL,           -- when
    user_id text COLLATE "C" NOT NULL,
    place bigint NOT NULL,
    nonce bigint NOT NULL,
    previous bigint NOT NULL,            -- the nonce of the place before
    record bigint NOT NULL,              -- inbox_records.id, of the same delivery
    PRIMARY KEY (user_id, place, delivered)
) PARTITION BY RANGE (delivered);

-- The records of the entries, once for each delivery, as im-core encodes them: the messages may be those of another store.
CREATE TABLE inbox_records (
    delivered bigint NOT NULL,
    id bigint NOT NULL,
    record bytea NOT NULL,
    PRIMARY KEY (delivered, id)          -- so new keys are written to one end of the index
) PARTITION BY RANGE (delivered);

-- What hosts send inside their own transactions, until it is in `messages`. Nothing is locked but the new rows: no number is given
-- here, and two rows may have one send key, of which the second finds the first. The transaction comes first in the key: below those that
-- are over nothing can appear any more, so that whoever looks need not step over what is deleted there, vacuumed or not.
CREATE TABLE outbox (
    transaction bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    number bigint GENERATED ALWAYS AS IDENTITY,
    put_at bigint NOT NULL,
    conversation_id text COLLATE "C" NOT NULL,
    send_from text COLLATE "C" NOT NULL,
    client_msg_id text COLLATE "C" NOT NULL,
    content_type text NOT NULL,
    content text NOT NULL,
    content_hash bigint NOT NULL,
    PRIMARY KEY (transaction, number)
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 1000
);
CREATE INDEX outbox_send_key ON outbox (client_msg_id, conversation_id, send_from);

-- What of it the engine refused, and why: kept until the host removes it.
CREATE TABLE outbox_refused (
    number bigint PRIMARY KEY,
    put_at bigint NOT NULL,
    refused_at bigint NOT NULL,
    code text NOT NULL,                  -- as on the wire: docs/protocol.md
    reason text NOT NULL,                -- for people
    conversation_id text COLLATE "C" NOT NULL,
    send_from text COLLATE "C" NOT NULL,
    client_msg_id text COLLATE "C" NOT NULL,
    content_type text NOT NULL,
    content text NOT NULL
);

-- Who does which work, and which sessions are alive: worth nothing after a crash, so not worth a write to the disk.
CREATE UNLOGGED TABLE leases (
    name text PRIMARY KEY,
    node text NOT NULL,
    until bigint NOT NULL
);

CREATE UNLOGGED TABLE nodes (
    node text COLLATE "C" PRIMARY KEY,
    until bigint NOT NULL,
    life bigint NOT NULL                 -- another one after each silence of more than the TTL: the sessions of before are void
);

CREATE UNLOGGED TABLE sessions (
    user_id text COLLATE "C" NOT NULL,
    session text COLLATE "C" NOT NULL,
    slot text COLLATE "C" NOT NULL,
    node text COLLATE "C" NOT NULL,
    life bigint NOT NULL,
    device text NOT NULL,
    platform text NOT NULL,
    displaced boolean NOT NULL,          -- kept until its node lets go of it
    number bigint GENERATED ALWAYS AS IDENTITY, -- the order of their coming
    PRIMARY KEY (user_id, session)
);
CREATE INDEX sessions_of_node ON sessions (node, life);
