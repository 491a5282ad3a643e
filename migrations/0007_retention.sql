-- Retention: what all pipelines have settled and is older than an outbox keeps it
-- is deleted by the relays, batch by batch.
--
-- Order of locks, for everything that touches several of them: the outbox's row,
-- the lease, the position. A batch locks the outbox's row FOR UPDATE and looks at
-- the positions after that. Whoever lets a pipeline begin in an outbox, or moves a
-- position back, holds that row FOR KEY SHARE before it does so: then either the
-- batch sees the position, or the position is taken after what the batch removed.

-- What was removed of an outbox, and how far a sweep has come.
--
-- Apart from tide.outbox, whose rows every publish reads: a row that is written
-- with each batch grows a chain of dead versions while a transaction runs long.
CREATE TABLE tide.outbox_retention (
    outbox_id int PRIMARY KEY REFERENCES tide.outbox ON DELETE CASCADE,
    -- Of the rows up to this id only those of left_behind transactions are left:
    -- they drew their ids early and were not settled when the sweep came past.
    swept_id bigint NOT NULL DEFAULT 0,
    left_behind xid8[] NOT NULL DEFAULT '{}',
    -- How many rows were removed, the highest id and transaction among them, and
    -- a snapshot that sees them all.
    removed_rows bigint NOT NULL DEFAULT 0,
    removed_id bigint NOT NULL DEFAULT 0,
    removed_xact xid8 NOT NULL DEFAULT '0',
    removed_seen pg_snapshot NOT NULL DEFAULT '1:1:',
    removed_at timestamptz
) WITH (
    fillfactor = 20,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0
);

-- Which relay sweeps this database. It only keeps two from doing the same work at
-- once: what may be deleted is decided under the outbox's lock.
CREATE TABLE tide.relay_retention_turn (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    owner text NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (
    fillfactor = 20,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0
);

COMMENT ON TABLE tide.outbox_retention IS 'what was removed of an outbox after its retention; written by relays';
COMMENT ON TABLE tide.relay_retention_turn IS 'which relay removes what has outlived its retention; written by relays';

-- How many rows had been removed of the outbox when the pipeline began: those it
-- was never to deliver. Rows removed later it must have settled.
ALTER TABLE tide.relay_position ADD COLUMN began_after bigint NOT NULL DEFAULT 0;

-- Large payloads lie in the TOAST table, which is vacuumed by its own rule.
ALTER TABLE tide.outbox_message SET (
    toast.autovacuum_vacuum_threshold = 50000,
    toast.autovacuum_vacuum_scale_factor = 0.02
);

-- === Who holds rows ===

-- Everyone who has still to deliver rows of an outbox that its base does not see:
-- every position, whether its pipeline runs or not, and every definition without
-- one.
CREATE VIEW tide.outbox_reader AS
SELECT p.outbox_id, p.pipeline, p.base
FROM tide.relay_position AS p
WHERE p.outbox_id IS NOT NULL
UNION ALL
SELECT o.outbox_id, r.name, '1:1:'::pg_snapshot
FROM tide.relay_pipeline AS r JOIN tide.outbox AS o ON o.name = r.outbox
WHERE NOT EXISTS (
    SELECT FROM tide.relay_position AS p WHERE p.pipeline = r.name AND p.outbox_id = o.outbox_id);
COMMENT ON VIEW tide.outbox_reader IS
    'pipelines that hold rows of an outbox: all those that "base" does not see';

-- When the oldest row of an outbox that is still there was inserted. Does not walk
-- over what a sweep has deleted.
CREATE FUNCTION tide.outbox_oldest_kept(outbox_id int) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    SELECT least(
        (
            SELECT m.created_at FROM tide.outbox_message AS m
            WHERE m.outbox_id = outbox_oldest_kept.outbox_id
                AND m.id > coalesce((
                    SELECT t.swept_id FROM tide.outbox_retention AS t
                    WHERE t.outbox_id = outbox_oldest_kept.outbox_id), 0)
            ORDER BY m.id LIMIT 1
        ),
        (
            SELECT min(first_of.created_at)
            FROM tide.outbox_retention AS t CROSS JOIN LATERAL unnest(t.left_behind) AS late (xid)
            CROSS JOIN LATERAL (
                SELECT m.created_at FROM tide.outbox_message AS m
                WHERE m.outbox_id = outbox_oldest_kept.outbox_id AND m.xact >= late.xid AND m.xact <= late.xid
                ORDER BY m.xact, m.id LIMIT 1
            ) AS first_of
            WHERE t.outbox_id = outbox_oldest_kept.outbox_id
        )
    )
$$;

-- Rows older than "cutoff" that a base does not see, counted among the first
-- "bound" that it does not see.
CREATE FUNCTION tide.outbox_held(
    outbox_id int, base pg_snapshot, cutoff timestamptz, bound int, OUT held bigint, OUT oldest_at timestamptz
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    first_fresh CONSTANT xid8 := pg_snapshot_xmax(base);
    first_future CONSTANT xid8 := pg_snapshot_xmax(pg_current_snapshot());
    late CONSTANT xid8[] := ARRAY(
        SELECT x.xid FROM pg_snapshot_xip(base) AS x (xid)
        WHERE pg_visible_in_snapshot(x.xid, pg_current_snapshot()));
BEGIN
    SELECT count(*), min(unseen.created_at) INTO held, oldest_at FROM (
        (
            SELECT m.created_at FROM tide.outbox_message AS m
            WHERE m.outbox_id = outbox_held.outbox_id AND m.xact >= first_fresh AND m.xact < first_future
            ORDER BY m.xact, m.id LIMIT bound
        )
        UNION ALL
        (
            SELECT of_transaction.created_at FROM unnest(late) AS x (xid) CROSS JOIN LATERAL (
                SELECT m.created_at FROM tide.outbox_message AS m
                WHERE m.outbox_id = outbox_held.outbox_id AND m.xact >= x.xid AND m.xact <= x.xid
                ORDER BY m.xact, m.id LIMIT bound
            ) AS of_transaction
            LIMIT bound
        )
    ) AS unseen
    WHERE unseen.created_at < cutoff;
    held := least(held, bound);
END
$$;

-- What retention has done to an outbox and who holds it up. A pipeline holds rows
-- when some that are older than the outbox keeps them are not settled by it.
CREATE FUNCTION tide.outbox_retention_status(outbox_id int) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object(
        'retention_hours', o.retention_hours,
        'removed_rows', coalesce(t.removed_rows, 0),
        'removed_up_to_id', nullif(t.removed_id, 0),
        'removed_at', t.removed_at,
        'oldest_at', oldest.at,
        'oldest_age_seconds', round(extract(epoch FROM clock_timestamp() - oldest.at)::numeric, 3),
        -- Nobody has settled what nobody reads: it is kept.
        'unread', NOT EXISTS (SELECT FROM tide.outbox_reader AS r WHERE r.outbox_id = o.outbox_id),
        'held_by', coalesce((
            SELECT jsonb_agg(jsonb_build_object(
                'pipeline', r.pipeline,
                'defined_in', CASE WHEN d.name IS NULL THEN 'file' ELSE 'database' END,
                'enabled', d.enabled,
                'rows', h.held,
                'rows_at_least', h.held = 10001,
                'oldest_at', h.oldest_at,
                'oldest_age_seconds', round(extract(epoch FROM clock_timestamp() - h.oldest_at)::numeric, 3),
                'held_since', h.oldest_at + o.retention_hours * interval '1 hour'
            ) ORDER BY h.oldest_at, r.pipeline)
            FROM tide.outbox_reader AS r
            LEFT JOIN tide.relay_pipeline AS d ON d.name = r.pipeline
            CROSS JOIN LATERAL tide.outbox_held(
                r.outbox_id, r.base, clock_timestamp() - o.retention_hours * interval '1 hour', 10001) AS h
            WHERE r.outbox_id = o.outbox_id AND o.retention_hours IS NOT NULL AND h.held > 0), '[]')
    )
    FROM tide.outbox AS o
    LEFT JOIN tide.outbox_retention AS t ON t.outbox_id = o.outbox_id
    CROSS JOIN LATERAL (SELECT tide.outbox_oldest_kept(o.outbox_id) AS at) AS oldest
    WHERE o.outbox_id = outbox_retention_status.outbox_id
$$;

CREATE OR REPLACE FUNCTION tide.outbox_status(name text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    status jsonb;
BEGIN
    SELECT jsonb_build_object(
        'name', o.name,
        'outbox_id', o.outbox_id,
        'uuid', o.uuid,
        'enabled', o.enabled,
        'retention_hours', o.retention_hours,
        'created_at', o.created_at,
        'newest_id', newest.id,
        'newest_at', newest.created_at,
        'pipelines', coalesce((
            SELECT jsonb_agg(jsonb_build_object(
                'pipeline', lag.pipeline,
                'consumer_group', lag.consumer_group,
                'defined_in', lag.defined_in,
                'enabled', lag.enabled,
                'owner', lag.owner,
                'pending', lag.pending,
                'pending_at_least', lag.pending_at_least,
                'oldest_age_seconds', round(extract(epoch FROM lag.oldest_age)::numeric, 3),
                'position_updated_at', lag.position_updated_at
            ) ORDER BY lag.pipeline)
            FROM tide.outbox_lag AS lag WHERE lag.outbox = o.name), '[]'),
        'retention', tide.outbox_retention_status(o.outbox_id)
    ) INTO status
    FROM tide.outbox AS o
    LEFT JOIN LATERAL (
        SELECT m.id, m.created_at FROM tide.outbox_message AS m
        WHERE m.outbox_id = o.outbox_id ORDER BY m.id DESC LIMIT 1
    ) AS newest ON true
    WHERE o.name = outbox_status.name;
    IF status IS NULL THEN
        RAISE EXCEPTION 'outbox % does not exist', coalesce(quote_literal(name), 'NULL') USING ERRCODE = '42704',
            HINT = 'SELECT name FROM tide.outbox lists the outboxes.';
    END IF;
    RETURN status;
END
$$;
COMMENT ON FUNCTION tide.outbox_status(text) IS
    'an outbox, the pipelines that read it with what waits behind each, and what retention has removed and who holds it up';

-- === What an operator may decide ===

CREATE FUNCTION tide.outbox_set_retention(name text, retention_hours int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tide.check_retention(retention_hours);
    UPDATE tide.outbox AS o SET retention_hours = outbox_set_retention.retention_hours
    WHERE o.name = outbox_set_retention.name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'outbox % does not exist', coalesce(quote_literal(name), 'NULL') USING ERRCODE = '42704',
            HINT = 'SELECT name FROM tide.outbox lists the outboxes.';
    END IF;
END
$$;
COMMENT ON FUNCTION tide.outbox_set_retention(text, int) IS
    'how long an outbox keeps messages after they were inserted, once all its pipelines have settled them; NULL: for ever';

-- A pipeline that was taken out of a relay's file leaves its position behind, and
-- that holds rows until somebody says that it will not come back.
CREATE FUNCTION tide.relay_forget(pipeline text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    running text;
BEGIN
    IF EXISTS (SELECT FROM tide.relay_pipeline AS r WHERE r.name = relay_forget.pipeline) THEN
        RAISE EXCEPTION 'pipeline % is defined in the database', quote_literal(pipeline) USING ERRCODE = '55006',
            HINT = format('SELECT tide.relay_delete(%L) deletes it and forgets its position.', pipeline);
    END IF;
    SELECT l.owner INTO running FROM tide.relay_lease AS l
    WHERE l.pipeline = relay_forget.pipeline AND l.expires_at > clock_timestamp();
    IF running IS NOT NULL THEN
        RAISE EXCEPTION 'pipeline % is run by the relay %', quote_literal(pipeline), running USING ERRCODE = '55006',
            HINT = 'Take it out of the relay''s configuration first, or wait until its lease has ended.';
    END IF;
    IF NOT EXISTS (
        SELECT FROM tide.relay_position AS p WHERE p.pipeline = relay_forget.pipeline AND p.outbox_id IS NOT NULL
    ) THEN
        RAISE EXCEPTION 'pipeline % has no position', coalesce(quote_literal(pipeline), 'NULL') USING ERRCODE = '42704',
            HINT = 'SELECT pipeline FROM tide.relay_position WHERE outbox_id IS NOT NULL lists those that have one.';
    END IF;
    PERFORM tide.forget_position(pipeline);
END
$$;
COMMENT ON FUNCTION tide.relay_forget(text) IS
    'forgets the position of a pipeline that was taken out of the relay''s file, so that it holds no messages any more';

-- Lets a pipeline go on whose position lies before messages that are removed.
CREATE FUNCTION tide.relay_accept_removed(pipeline text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    read int;
    removed bigint;
BEGIN
    SELECT p.outbox_id INTO read FROM tide.relay_position AS p WHERE p.pipeline = relay_accept_removed.pipeline;
    IF read IS NULL THEN
        RAISE EXCEPTION 'pipeline % has no position', coalesce(quote_literal(pipeline), 'NULL') USING ERRCODE = '42704',
            HINT = 'SELECT pipeline FROM tide.relay_position WHERE outbox_id IS NOT NULL lists those that have one.';
    END IF;
    PERFORM FROM tide.outbox AS o WHERE o.outbox_id = read FOR KEY SHARE;
    PERFORM FROM tide.relay_lease AS l WHERE l.pipeline = relay_accept_removed.pipeline FOR UPDATE;
    SELECT coalesce(max(t.removed_rows), 0) INTO removed FROM tide.outbox_retention AS t WHERE t.outbox_id = read;
    UPDATE tide.relay_position AS p SET began_after = removed, updated_at = clock_timestamp()
    WHERE p.pipeline = relay_accept_removed.pipeline AND p.outbox_id = read;
    RETURN removed;
END
$$;
COMMENT ON FUNCTION tide.relay_accept_removed(text) IS
    'lets a pipeline whose position lies before removed messages go on without them';
