-- While acks do not wait for the disk: the boot of the operating system under which the file was opened and not closed yet. A
-- later boot finds that the newest data may be missing.
ALTER TABLE meta ADD COLUMN buffered_boot TEXT;

-- To find the devices that stayed away without looking at all.
CREATE INDEX devices_seen ON devices (seen_at);
