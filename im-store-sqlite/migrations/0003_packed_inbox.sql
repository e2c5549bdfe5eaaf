-- A row of the inbox holds several entries of its user: `message` is the newest of them, `earlier` a JSON array of those before it,
-- ascending; null where there are none. The rows of a user do not overlap.
ALTER TABLE inbox ADD COLUMN earlier TEXT;

-- The sync inbox, an entry a row.
CREATE VIEW inbox_entries AS
    SELECT user_id, message FROM inbox
    UNION ALL
    SELECT i.user_id, e.value FROM inbox i, json_each(i.earlier) e;
