-- Telling this database from a copy of it, and making a copy's positions right.
--
-- Positions are snapshots: they speak of transaction ids of one cluster. A copy
-- that was made logically (dump and restore, logical replication) keeps the ids
-- in its rows and positions, but counts its own from the start.

-- What a database is known by. A row is of this very database if and only if it
-- was written here: a copy is written by another transaction, into a table with
-- another oid. What copies files (pg_upgrade, base backups, CREATE DATABASE with
-- a template) keeps both, and keeps transaction ids, so positions stay right.
-- No special right is needed to read it, and nothing but a logical copy changes it.
CREATE TABLE tide.relay_database (
    place uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    table_oid oid NOT NULL DEFAULT 'tide.relay_database'::regclass,
    -- The row's own xmin, as it was when the row was written.
    written_by bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE tide.relay_database IS 'what tells this database from a copy of it; written by tidegate';

CREATE FUNCTION tide.relay_is_here(place uuid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT place IS NULL OR EXISTS (
        SELECT FROM tide.relay_database AS d
        WHERE d.place = relay_is_here.place AND d.table_oid = 'tide.relay_database'::regclass
            AND d.written_by = d.xmin::text::bigint)
$$;
COMMENT ON FUNCTION tide.relay_is_here(uuid) IS
    'whether what bears this mark was written in this database, and not in one it is a copy of';

CREATE FUNCTION tide.relay_this_database() RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    here uuid;
BEGIN
    SELECT d.place INTO here FROM tide.relay_database AS d
    WHERE tide.relay_is_here(d.place) ORDER BY d.created_at, d.place LIMIT 1;
    IF here IS NULL THEN
        INSERT INTO tide.relay_database DEFAULT VALUES RETURNING place INTO here;
        -- In a subtransaction xmin is that one's id, which only the row tells.
        UPDATE tide.relay_database AS d SET written_by = d.xmin::text::bigint WHERE d.place = here;
    END IF;
    RETURN here;
END
$$;
COMMENT ON FUNCTION tide.relay_this_database() IS 'the mark of this database';

-- Where the transaction ids of an outbox's messages, and of a position, are from.
ALTER TABLE tide.outbox ADD COLUMN place uuid;
UPDATE tide.outbox SET place = tide.relay_this_database();
ALTER TABLE tide.outbox ALTER COLUMN place SET DEFAULT tide.relay_this_database();

ALTER TABLE tide.relay_position
    ADD COLUMN place uuid,
    -- No message with a higher id had been read when the position was written:
    -- none above it is settled, whatever its transaction id.
    ADD COLUMN highest_id bigint NOT NULL DEFAULT 0;

-- A position of another database says nothing of messages here: until it is rebased,
-- retention takes nothing as settled by it.
CREATE OR REPLACE VIEW tide.outbox_reader AS
SELECT p.outbox_id, p.pipeline,
    CASE WHEN tide.relay_is_here(p.place) THEN p.base ELSE '1:1:'::pg_snapshot END AS base
FROM tide.relay_position AS p
WHERE p.outbox_id IS NOT NULL
UNION ALL
SELECT o.outbox_id, r.name, '1:1:'::pg_snapshot
FROM tide.relay_pipeline AS r JOIN tide.outbox AS o ON o.name = r.outbox
WHERE NOT EXISTS (
    SELECT FROM tide.relay_position AS p WHERE p.pipeline = r.name AND p.outbox_id = o.outbox_id);

-- Whether everything "earlier" sees is seen by "later", which was taken after it in
-- the same database.
CREATE FUNCTION tide.snapshot_covers(later pg_snapshot, earlier pg_snapshot) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_snapshot_xmax(later) >= pg_snapshot_xmax(earlier) AND NOT EXISTS (
        SELECT FROM pg_snapshot_xip(later) AS x (xid)
        WHERE x.xid < pg_snapshot_xmax(earlier) AND x.xid NOT IN (SELECT e.xid FROM pg_snapshot_xip(earlier) AS e (xid)))
$$;

-- A position that lies before messages that retention has removed, if there is one:
-- it was restored from a backup, and no relay takes it (the rule is that of
-- Removed::spares in src/core/retention.rs).
CREATE FUNCTION tide.position_before_removed(outbox_id int) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.pipeline FROM tide.relay_position AS p
    JOIN tide.outbox_retention AS t ON t.outbox_id = p.outbox_id
    CROSS JOIN LATERAL (SELECT (p.open_windows #>> '{0,snapshot}')::pg_snapshot AS first_window) AS w
    WHERE p.outbox_id = position_before_removed.outbox_id AND t.removed_rows <> p.began_after
        AND NOT (tide.snapshot_covers(p.base, t.removed_seen) OR pg_snapshot_xmin(p.base) > t.removed_xact)
        AND NOT coalesce(p.settled_id >= t.removed_id AND (
            tide.snapshot_covers(w.first_window, t.removed_seen) OR pg_snapshot_xmin(w.first_window) > t.removed_xact), false)
    ORDER BY p.pipeline LIMIT 1
$$;

-- How the messages of an outbox stand to the positions in it: bit n of "settled"
-- is set if the pipeline with place n (by name, from 0) has settled the message.
--
-- A position of another database speaks of copied messages only, a position of
-- this one of messages written here only. What cannot be told counts as not
-- settled: it is then delivered again, never lost.
--
-- Told by the tuple's own xmin: a message written here has the xmin of its
-- transaction or of a subtransaction, which is higher. So a message is a copy if
-- its transaction id is not handed out yet, or above its xmin, or if several
-- transaction ids share one xmin. xmin has 32 bits; the upper ones are those of
-- the latest transaction it can be.
CREATE FUNCTION tide.rebase_messages(outbox_id int, next_xid bigint)
RETURNS TABLE (id bigint, xact xid8, settled bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = on AS $$
    WITH pipelines AS MATERIALIZED (
        SELECT (row_number() OVER (ORDER BY p.pipeline))::int - 1 AS place, p.base,
            (p.open_windows #>> '{0,snapshot}')::pg_snapshot AS first_window, p.settled_id, p.highest_id,
            tide.relay_is_here(p.place) AS is_here
        FROM tide.relay_position AS p WHERE p.outbox_id = rebase_messages.outbox_id
    ), messages AS MATERIALIZED (
        SELECT m.id, m.xact, m.xact::text::bigint AS xid, m.xmin::text::bigint AS low
        FROM tide.outbox_message AS m WHERE m.outbox_id = rebase_messages.outbox_id
    ), copiers AS MATERIALIZED (
        SELECT m.low FROM messages AS m GROUP BY m.low HAVING min(m.xid) <> max(m.xid)
    ), told AS (
        SELECT m.id, m.xact, m.xid >= next_xid OR w.writer < m.xid OR c.low IS NOT NULL AS is_copy
        FROM messages AS m
        LEFT JOIN copiers AS c ON c.low = m.low
        CROSS JOIN LATERAL (SELECT ((next_xid >> 32) << 32) + m.low AS latest) AS era
        CROSS JOIN LATERAL (
            SELECT CASE WHEN era.latest < next_xid THEN era.latest ELSE era.latest - 4294967296 END AS writer
        ) AS w
    )
    SELECT t.id, t.xact, coalesce((
        SELECT bit_or(1::bigint << p.place) FROM pipelines AS p
        WHERE CASE WHEN p.is_here THEN NOT t.is_copy ELSE t.is_copy AND t.id <= p.highest_id END
            AND (pg_visible_in_snapshot(t.xact, p.base)
                OR t.id <= p.settled_id AND pg_visible_in_snapshot(t.xact, p.first_window))
    ), 0)
    FROM told AS t
$$;

-- Makes the messages and positions of an outbox in a copied database comparable
-- with this database's transaction ids; answers what it did, or would do.
--
-- Messages are sorted into classes by which pipelines have settled them. Each
-- class with something left to deliver gets one transaction id for all of its
-- messages: a low one, which ended long ago and which no message bears. A
-- position becomes the present snapshot with the ids of the classes it has not
-- settled added to those in progress: their messages are then read as those of
-- late committers, in one window, by id. Messages committed meanwhile, and later,
-- are not seen by that snapshot and follow in the next windows.
--
-- Must run in a transaction of one snapshot, so that no message is committed
-- between the look and the write. Publishers are not locked out.
CREATE FUNCTION tide.relay_rebase(outbox text, dry_run boolean DEFAULT false) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seen CONSTANT pg_snapshot := pg_current_snapshot();
    next_xid CONSTANT bigint := pg_snapshot_xmax(seen)::text::bigint;
    -- More window numbers than a pipeline used after the dump was taken: three
    -- years at 100 a second.
    numbers_skipped CONSTANT bigint := 10000000000;
    -- More message ids than were handed out after the dump was taken.
    ids_skipped CONSTANT bigint := 1000000;
    target int;
    place uuid;
    here uuid;
    pipelines text[];
    everything bigint;
    classes bigint[];
    labels xid8[];
    counted jsonb;
    waiting xid8[];
    rewritten bigint := 0;
    one record;
    next_epoch bigint;
    sequence CONSTANT regclass := pg_get_serial_sequence('tide.outbox_message', 'id')::regclass;
    highest bigint;
    is_replicated boolean := false;
    refused text;
BEGIN
    IF NOT dry_run AND current_setting('transaction_isolation') NOT IN ('repeatable read', 'serializable') THEN
        RAISE EXCEPTION 'tide.relay_rebase() needs a transaction of one snapshot' USING ERRCODE = '25001',
            HINT = 'Run `tidegate rebase`, or BEGIN ISOLATION LEVEL REPEATABLE READ first.';
    END IF;
    SELECT o.outbox_id, o.place INTO target, place FROM tide.outbox AS o WHERE o.name = relay_rebase.outbox;
    IF target IS NULL THEN
        RAISE EXCEPTION 'outbox % does not exist', coalesce(quote_literal(outbox), 'NULL') USING ERRCODE = '42704',
            HINT = 'SELECT name FROM tide.outbox lists the outboxes.';
    END IF;
    SELECT coalesce(array_agg(p.pipeline ORDER BY p.pipeline), '{}') INTO pipelines
    FROM tide.relay_position AS p WHERE p.outbox_id = target;
    IF tide.relay_is_here(place)
        AND NOT EXISTS (
            SELECT FROM tide.relay_position AS p
            WHERE p.outbox_id = target AND p.base::text <> '1:1:'
                AND (NOT tide.relay_is_here(p.place) OR pg_snapshot_xmax(p.base) > pg_snapshot_xmax(seen)))
        AND NOT EXISTS (
            SELECT FROM tide.outbox_message AS m
            WHERE m.outbox_id = target AND m.xact >= pg_snapshot_xmax(seen) LIMIT 1)
    THEN
        RETURN jsonb_build_object('outbox', outbox, 'needed', false, 'dry_run', dry_run,
            'messages', 0, 'rewritten', 0, 'pipelines', '[]'::jsonb);
    END IF;
    IF cardinality(pipelines) > 60 THEN
        RAISE EXCEPTION 'outbox % has % positions, at most 60 can be rebased at once',
            quote_literal(outbox), cardinality(pipelines) USING ERRCODE = '54000',
            HINT = 'Delete pipelines that are not used any more with tide.relay_delete().';
    END IF;
    BEGIN
        SELECT EXISTS (
            SELECT FROM pg_subscription_rel AS r JOIN pg_subscription AS s ON s.oid = r.srsubid
            WHERE s.subenabled AND r.srrelid = 'tide.outbox_message'::regclass) INTO is_replicated;
    EXCEPTION WHEN insufficient_privilege THEN
        is_replicated := false;
    END;
    IF is_replicated THEN
        RAISE EXCEPTION 'a subscription still writes to tide.outbox_message' USING ERRCODE = '55000',
            HINT = 'Stop the publishers of the old database, let the subscription catch up and disable it, then rebase.';
    END IF;
    SELECT tide.position_before_removed(target) INTO refused;
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION 'the position of pipeline % lies before messages that retention has removed', quote_literal(refused)
            USING ERRCODE = '55000',
                  HINT = format('To go on without them: SELECT tide.relay_accept_removed(%L), then rebase.', refused);
    END IF;
    IF NOT dry_run THEN
        -- Outbox, lease, position: the order in which relays lock them.
        PERFORM FROM tide.outbox AS o WHERE o.outbox_id = target FOR NO KEY UPDATE;
        PERFORM FROM tide.relay_lease AS l WHERE l.pipeline = ANY (pipelines) ORDER BY l.pipeline FOR UPDATE;
        PERFORM FROM tide.relay_position AS p WHERE p.pipeline = ANY (pipelines) ORDER BY p.pipeline FOR UPDATE;
    END IF;

    everything := (1::bigint << cardinality(pipelines)) - 1;
    SELECT array_agg(c.settled ORDER BY c.settled), jsonb_object_agg(c.settled, c.messages)
    INTO classes, counted
    FROM (
        SELECT r.settled, count(*) AS messages FROM tide.rebase_messages(target, next_xid) AS r GROUP BY r.settled
    ) AS c;
    classes := coalesce(classes, '{}');

    IF NOT dry_run THEN
        SELECT array_agg(free.xid ORDER BY free.xid) INTO labels FROM (
            -- 3 is the first id of a cluster's transactions.
            SELECT g.n::text::xid8 AS xid FROM generate_series(3, pg_snapshot_xmin(seen)::text::bigint - 1) AS g (n)
            WHERE NOT EXISTS (
                SELECT FROM tide.outbox_message AS m
                WHERE m.outbox_id = target AND m.xact >= g.n::text::xid8 AND m.xact <= g.n::text::xid8)
            LIMIT cardinality(classes)
        ) AS free;
        IF cardinality(coalesce(labels, '{}')) < cardinality(classes) THEN
            RAISE EXCEPTION 'no free transaction ids below %', pg_snapshot_xmin(seen) USING ERRCODE = '55000',
                HINT = 'A transaction has been open since this cluster was made: end it, then rebase.';
        END IF;
        here := tide.relay_this_database();
        UPDATE tide.outbox_message AS m SET xact = c.label
        FROM tide.rebase_messages(target, next_xid) AS r
        JOIN unnest(classes, labels) AS c (settled, label) ON c.settled = r.settled
        WHERE m.outbox_id = target AND m.id = r.id
            AND (r.settled <> everything OR NOT pg_visible_in_snapshot(m.xact, seen));
        GET DIAGNOSTICS rewritten = ROW_COUNT;

        FOR one IN SELECT p.name, p.place - 1 AS place FROM unnest(pipelines) WITH ORDINALITY AS p (name, place) LOOP
            SELECT coalesce(array_agg(w.xid ORDER BY w.xid), '{}') INTO waiting FROM (
                SELECT c.label AS xid FROM unnest(classes, labels) AS c (settled, label)
                WHERE c.settled & (1::bigint << one.place::int) = 0
                UNION ALL
                SELECT x.xid FROM pg_snapshot_xip(seen) AS x (xid)
            ) AS w;
            SELECT 1 + greatest(
                (SELECT l.epoch FROM tide.relay_lease AS l WHERE l.pipeline = one.name),
                (SELECT p.epoch FROM tide.relay_position AS p WHERE p.pipeline = one.name)
            ) INTO next_epoch;
            UPDATE tide.relay_lease AS l SET owner = '', epoch = next_epoch, expires_at = '-infinity'
            WHERE l.pipeline = one.name;
            UPDATE tide.relay_position AS p
            SET base = format('%s:%s:%s', coalesce(waiting[1], pg_snapshot_xmax(seen)), pg_snapshot_xmax(seen),
                    array_to_string(waiting, ','))::pg_snapshot,
                open_windows = '[]', settled_id = 0, marks = '[]', epoch = next_epoch, place = here,
                last_number = numbers_skipped + greatest(p.last_number, (
                    SELECT max((w.value ->> 'number')::bigint) FROM jsonb_array_elements(p.open_windows) AS w)),
                updated_at = clock_timestamp()
            WHERE p.pipeline = one.name;
        END LOOP;
        UPDATE tide.outbox AS o SET place = here WHERE o.outbox_id = target;
        -- Retention's memory speaks of the old ids too, and no position is before what
        -- it has removed: see above.
        UPDATE tide.outbox_retention AS t
        SET swept_id = 0, left_behind = '{}', removed_xact = '0', removed_seen = '1:1:'
        WHERE t.outbox_id = target;
        UPDATE tide.relay_position AS p SET began_after = t.removed_rows
        FROM tide.outbox_retention AS t
        WHERE t.outbox_id = target AND p.outbox_id = target;

        -- Message ids above all that consumers may have seen: a sequence is not
        -- replicated, and ids handed out after the dump must not mean two messages.
        EXECUTE format('SELECT s.last_value FROM %s AS s', sequence) INTO highest;
        SELECT greatest(highest,
            (SELECT max(p.highest_id) FROM tide.relay_position AS p),
            (SELECT max(top.id) FROM tide.outbox AS o CROSS JOIN LATERAL (
                SELECT m.id FROM tide.outbox_message AS m
                WHERE m.outbox_id = o.outbox_id ORDER BY m.id DESC LIMIT 1) AS top)) INTO highest;
        PERFORM setval(sequence, highest + ids_skipped);
    END IF;

    RETURN jsonb_build_object('outbox', outbox, 'needed', true, 'dry_run', dry_run,
        'messages', (SELECT coalesce(sum(c.value::bigint), 0) FROM jsonb_each_text(counted) AS c),
        'rewritten', rewritten,
        'pipelines', coalesce((
            SELECT jsonb_agg(jsonb_build_object(
                'pipeline', p.name,
                'settled', (SELECT coalesce(sum(c.value::bigint), 0) FROM jsonb_each_text(counted) AS c
                    WHERE c.key::bigint & (1::bigint << (p.place - 1)::int) <> 0),
                'to_deliver', (SELECT coalesce(sum(c.value::bigint), 0) FROM jsonb_each_text(counted) AS c
                    WHERE c.key::bigint & (1::bigint << (p.place - 1)::int) = 0)
            ) ORDER BY p.name)
            FROM unnest(pipelines) WITH ORDINALITY AS p (name, place)), '[]'::jsonb));
END
$$;
COMMENT ON FUNCTION tide.relay_rebase(text, boolean) IS
    'makes an outbox of a database that was restored from a dump or replicated deliverable again, without losing a message';
