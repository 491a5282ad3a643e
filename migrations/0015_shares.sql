-- Shares: which part of a shard's budget each node goes by.
--
-- Of a shard the parts of all nodes that may send add up to no more than the whole,
-- whoever saw what when: a node goes by less before it writes that here, and by more
-- only after it was raised here, which is done for one node at a time.

CREATE TABLE tide.relay_share (
    -- Which stream, as relays tell streams apart (ARN and when it was made).
    stream text NOT NULL,
    shard text NOT NULL,
    -- As in tide.relay_node. No foreign key: a row may outlive its node's.
    node text NOT NULL,
    -- Rises with every write of a node: one that was held up on its way must not
    -- undo a later one.
    number bigint NOT NULL,
    -- In ten-thousandths of the shard.
    records int NOT NULL,
    bytes int NOT NULL,
    -- What the node goes on with when it is not heard of any more: it writes for other
    -- databases too. Nothing where it does not.
    kept_records int NOT NULL,
    kept_bytes int NOT NULL,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (stream, shard, node),
    CONSTRAINT relay_share_parts CHECK (
        records BETWEEN 0 AND 10000 AND bytes BETWEEN 0 AND 10000
        AND kept_records BETWEEN 0 AND records AND kept_bytes BETWEEN 0 AND bytes)
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0
);
COMMENT ON TABLE tide.relay_share IS 'the part of each shard''s write capacity that each relay goes by, written by relays';

CREATE INDEX relay_share_by_node ON tide.relay_share (node);

-- Which transaction wrote what a node says last: a beat reads anew only what the one
-- before has not seen.
ALTER TABLE tide.relay_node ADD COLUMN noted xid8 NOT NULL DEFAULT pg_current_xact_id();

-- Writes down what a node uses of some shards (no more than it was granted) and raises
-- it to what it wants as far as the others leave room. Arrays are of one length; answers
-- one row for each shard of which the node's row is of this write, by its place.
-- A node whose row in tide.relay_node has expired gets, and changes, nothing.
CREATE FUNCTION tide.relay_write_shares(
    p_node text, p_number bigint, p_streams text[], p_shards text[],
    p_uses_records int[], p_uses_bytes int[], p_wants_records int[], p_wants_bytes int[],
    p_keeps_records int[], p_keeps_bytes int[]
) RETURNS TABLE (place bigint, records int, bytes int, keepers text[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    -- Each statement below must see what was committed while it waited for a lock.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'tide.relay_write_shares: in a transaction that is %', current_setting('transaction_isolation')
            USING HINT = 'it needs READ COMMITTED';
    END IF;
    IF NOT EXISTS (SELECT 1 FROM tide.relay_node AS n WHERE n.node = p_node AND n.expires_at > clock_timestamp()) THEN
        RETURN;
    END IF;
    -- A share that a crash takes back would be given out twice.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;

    INSERT INTO tide.relay_share AS s (stream, shard, node, number, records, bytes, kept_records, kept_bytes)
    SELECT w.stream, w.shard, p_node, p_number, w.records, w.bytes,
        least(w.keeps_records, w.records), least(w.keeps_bytes, w.bytes)
    FROM unnest(p_streams, p_shards, p_uses_records, p_uses_bytes, p_keeps_records, p_keeps_bytes)
        AS w (stream, shard, records, bytes, keeps_records, keeps_bytes)
    ORDER BY w.stream, w.shard
    ON CONFLICT (stream, shard, node) DO UPDATE
    SET number = excluded.number, records = excluded.records, bytes = excluded.bytes,
        kept_records = excluded.kept_records, kept_bytes = excluded.kept_bytes, written_at = clock_timestamp()
    WHERE s.number < excluded.number;

    IF p_wants_records <> p_uses_records OR p_wants_bytes <> p_uses_bytes THEN
        -- Raises of one shard come one after the other. In one order, so that two nodes
        -- never wait for each other. (With a pooler that shares sessions a lock of the
        -- transaction is what there is.)
        PERFORM pg_advisory_xact_lock(keys.key) FROM (
            SELECT DISTINCT hashtextextended(w.stream || ' ' || w.shard, 7410) AS key
            FROM unnest(p_streams, p_shards, p_uses_records, p_uses_bytes, p_wants_records, p_wants_bytes)
                AS w (stream, shard, uses_records, uses_bytes, wants_records, wants_bytes)
            WHERE w.wants_records > w.uses_records OR w.wants_bytes > w.uses_bytes
            ORDER BY 1) AS keys;

        WITH wanted AS (
            SELECT w.* FROM unnest(p_streams, p_shards, p_uses_records, p_uses_bytes,
                    p_wants_records, p_wants_bytes, p_keeps_records, p_keeps_bytes)
                AS w (stream, shard, uses_records, uses_bytes, wants_records, wants_bytes, keeps_records, keeps_bytes)
            WHERE w.wants_records > w.uses_records OR w.wants_bytes > w.uses_bytes
        ), granted AS (
            SELECT w.stream, w.shard, w.keeps_records, w.keeps_bytes,
                least(w.wants_records, greatest(w.uses_records, 10000 - o.records)) AS records,
                least(w.wants_bytes, greatest(w.uses_bytes, 10000 - o.bytes)) AS bytes
            FROM wanted AS w, LATERAL (
                SELECT coalesce(sum(CASE WHEN n.node IS NULL THEN s.kept_records ELSE s.records END), 0)::int AS records,
                    coalesce(sum(CASE WHEN n.node IS NULL THEN s.kept_bytes ELSE s.bytes END), 0)::int AS bytes
                FROM tide.relay_share AS s
                LEFT JOIN tide.relay_node AS n ON n.node = s.node AND n.expires_at > clock_timestamp()
                WHERE s.stream = w.stream AND s.shard = w.shard AND s.node <> p_node) AS o
        )
        UPDATE tide.relay_share AS s
        SET records = g.records, bytes = g.bytes,
            kept_records = least(g.keeps_records, g.records), kept_bytes = least(g.keeps_bytes, g.bytes)
        FROM granted AS g
        WHERE s.stream = g.stream AND s.shard = g.shard AND s.node = p_node AND s.number = p_number;

        -- Of nodes that are gone and keep nothing no row is needed. One that comes back
        -- goes by nothing until it has written anew. Rows somebody has locked wait for
        -- the next time.
        DELETE FROM tide.relay_share AS s USING (
            SELECT old.stream, old.shard, old.node
            FROM unnest(p_streams, p_shards, p_uses_records, p_uses_bytes, p_wants_records, p_wants_bytes)
                AS w (stream, shard, uses_records, uses_bytes, wants_records, wants_bytes)
            JOIN tide.relay_share AS old ON old.stream = w.stream AND old.shard = w.shard
            WHERE (w.wants_records > w.uses_records OR w.wants_bytes > w.uses_bytes) AND old.node <> p_node AND old.kept_records = 0 AND old.kept_bytes = 0
                AND NOT EXISTS (SELECT 1 FROM tide.relay_node AS n
                    WHERE n.node = old.node AND n.expires_at > clock_timestamp())
            FOR UPDATE OF old SKIP LOCKED) AS gone
        WHERE s.stream = gone.stream AND s.shard = gone.shard AND s.node = gone.node
            AND s.kept_records = 0 AND s.kept_bytes = 0;
    END IF;

    RETURN QUERY
    SELECT w.place, s.records, s.bytes, ARRAY(
        SELECT k.node FROM tide.relay_share AS k
        WHERE k.stream = s.stream AND k.shard = s.shard AND k.node <> p_node
            AND (k.kept_records > 0 OR k.kept_bytes > 0)
            AND NOT EXISTS (SELECT 1 FROM tide.relay_node AS n
                WHERE n.node = k.node AND n.expires_at > clock_timestamp()))
    FROM unnest(p_streams, p_shards) WITH ORDINALITY AS w (stream, shard, place)
    JOIN tide.relay_share AS s ON s.stream = w.stream AND s.shard = w.shard
    WHERE s.node = p_node AND s.number = p_number;
END $$;

-- These nodes have no lease in any database any more: what they kept is free, unless
-- they have been heard of again.
CREATE FUNCTION tide.relay_forget_shares(p_nodes text[]) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH gone AS (
        DELETE FROM tide.relay_share AS s
        WHERE s.node = ANY (p_nodes) AND NOT EXISTS (
            SELECT 1 FROM tide.relay_node AS n WHERE n.node = s.node AND n.expires_at > clock_timestamp())
        RETURNING s.node
    )
    SELECT count(*) FROM gone
$$;

-- For people: who goes by which part of what.
CREATE VIEW tide.relay_shares AS
SELECT
    s.stream, s.shard, s.node,
    round(s.records / 10000.0, 4) AS records, round(s.bytes / 10000.0, 4) AS bytes,
    round(s.kept_records / 10000.0, 4) AS kept_records, round(s.kept_bytes / 10000.0, 4) AS kept_bytes,
    EXISTS (SELECT 1 FROM tide.relay_node AS n
        WHERE n.node = s.node AND n.expires_at > clock_timestamp()) AS live,
    s.written_at
FROM tide.relay_share AS s;
COMMENT ON VIEW tide.relay_shares IS 'the part (0 to 1) of each shard''s write capacity that each relay goes by; of one that is not live only what it keeps counts';
