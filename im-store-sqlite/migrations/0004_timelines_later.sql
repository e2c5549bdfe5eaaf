-- `timelines` have the places of all messages up to this one, with the read marks that their senders got by them; those of later
-- messages may follow some seconds later.
ALTER TABLE meta ADD COLUMN placed INTEGER NOT NULL DEFAULT 0;
UPDATE meta SET placed = coalesce((SELECT max(id) FROM messages), 0);

DROP VIEW conversations;
DROP VIEW read_marks;

CREATE VIEW read_marks AS
    SELECT main_user, conversation_id, device, max(mark) AS sequence_id, ordinal
    FROM (SELECT main_user, conversation_id, device, mark, ordinal
          FROM timelines WHERE sequence_id = 9223372036854775807
          UNION ALL
          SELECT send_from, conversation_id, coalesce(device, ''), sequence_id, ordinal
          FROM messages WHERE id > (SELECT placed FROM meta) AND kind = 1 AND send_from <> '')
    GROUP BY main_user, conversation_id, device;

CREATE VIEW conversations AS
    SELECT c.id, c.name, coalesce(n.sequence_id, t.sequence_id) AS last_message_id, c.type,
           CASE c.type WHEN 'SINGLE' THEN json_array(c.low_user, c.high_user) END AS users,
           c.created_at, coalesce(n.created_at, m.created_at, c.created_at) AS updated_at
    FROM conversation_facts c
    LEFT JOIN timelines t ON t.conversation_id = c.id AND t.main_user = '' AND t.sequence_id =
        (SELECT max(sequence_id) FROM timelines WHERE conversation_id = c.id AND sequence_id < 9223372036854775807)
    LEFT JOIN messages m ON m.id = t.message
    LEFT JOIN (SELECT conversation_id, max(sequence_id) AS sequence_id, created_at
               FROM messages WHERE id > (SELECT placed FROM meta) GROUP BY conversation_id) n ON n.conversation_id = c.id;
