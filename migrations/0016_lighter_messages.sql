-- A publish evaluates less.
--
-- A CHECK constraint is parsed and prepared anew by every statement that inserts: the
-- one that looked at the headers made up a tenth of what a publish costs. Headers are
-- looked at where they come in: in outbox_publish() and outbox_publish_many(), which
-- say what is wrong with them, and in the view that publishers write through. (That
-- created_at is finite stays a constraint: age is counted from it.)
ALTER TABLE tide.outbox_message DROP CONSTRAINT outbox_message_headers_object;

-- As before, but for the headers.
CREATE OR REPLACE VIEW tide.outbox_entry WITH (security_barrier = true) AS
SELECT m.outbox_id, m.id, m.dedup_key, m.payload, m.headers
FROM tide.outbox_message AS m
WHERE jsonb_typeof(m.headers) = 'object' AND (
        EXISTS (
            SELECT FROM (
                SELECT g.grantee FROM tide.outbox_grant AS g WHERE g.outbox_id = m.outbox_id AND g.enabled OFFSET 0
            ) AS granted
            WHERE pg_has_role(granted.grantee, 'USAGE'))
        OR has_any_column_privilege('tide.outbox_message'::regclass, 'INSERT'))
WITH CHECK OPTION;

-- How far the ids of all outboxes are: a relay sees by it that none has a new row.
CREATE VIEW tide.outbox_drawn AS SELECT s.last_value, s.is_called FROM tide.outbox_message_id_seq AS s;
COMMENT ON VIEW tide.outbox_drawn IS 'the last id drawn for a message of any outbox; read by relays';
