-- A row of the inbox holds several entries of its user, one after the other: `place`, `nonce` and `record` are the newest one's,
-- `previous` is the nonce of the place before the oldest. `earlier` names the records of the others, oldest first, by their numbers in
-- the delivery; null where there are none. A record's id is the delivery's number and, in the lowest 16 bits, its own; an entry's nonce
-- is the one xor the other.
ALTER TABLE inbox ADD COLUMN earlier int[];

-- The sync inbox, an entry a row.
CREATE VIEW inbox_entries AS
    SELECT i.delivered, i.user_id, i.place - cardinality(i.numbers) + k.at AS place, i.delivery # k.number AS nonce,
        CASE k.at WHEN 1 THEN i.previous ELSE i.delivery # i.numbers[k.at - 1] END AS previous,
        i.delivery << 16 | k.number AS record
    FROM (SELECT *, record >> 16 AS delivery, earlier || (record & 65535)::int AS numbers FROM inbox) i
    CROSS JOIN LATERAL unnest(i.numbers) WITH ORDINALITY AS k (number, at);
