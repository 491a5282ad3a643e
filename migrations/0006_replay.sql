-- Sending rows again: replays beside the live flow, and moving a position back.

-- Requests to send a range of rows again. The relay that owns the pipeline
-- carries them out one after the other and writes "next_id" under its epoch.
CREATE TABLE tide.relay_replay (
    replay_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline text NOT NULL,
    outbox_id int NOT NULL,
    from_id bigint NOT NULL,
    to_id bigint NOT NULL,
    -- Every row of the range below it is confirmed, or cannot be sent.
    next_id bigint NOT NULL,
    state text NOT NULL DEFAULT 'queued',
    sent bigint NOT NULL DEFAULT 0,
    skipped bigint NOT NULL DEFAULT 0,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    CONSTRAINT relay_replay_range CHECK (from_id <= to_id),
    CONSTRAINT relay_replay_state CHECK (state IN ('queued', 'running', 'done', 'cancelled'))
) WITH (fillfactor = 50);

-- Asked once a second by every relay: as small as what is open.
CREATE INDEX relay_replay_open ON tide.relay_replay (pipeline, replay_id) WHERE state IN ('queued', 'running');

COMMENT ON TABLE tide.relay_replay IS 'requests to send rows again, written by tide.relay_replay() and relays';

-- The position of a pipeline that has one.
CREATE FUNCTION tide.standing_position(pipeline text) RETURNS tide.relay_position
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    standing tide.relay_position;
BEGIN
    SELECT p.* INTO standing FROM tide.relay_position AS p WHERE p.pipeline = standing_position.pipeline;
    IF NOT FOUND AND NOT EXISTS (SELECT FROM tide.relay_pipeline AS r WHERE r.name = standing_position.pipeline) THEN
        PERFORM tide.refuse_pipeline(pipeline);
    END IF;
    IF standing.outbox_id IS NULL THEN
        RAISE EXCEPTION 'pipeline % has not delivered anything yet', quote_literal(pipeline)
            USING ERRCODE = '55000', HINT = 'It delivers every row of its outbox as soon as a relay runs it.';
    END IF;
    RETURN standing;
END
$$;

-- What a replay of a range would do; refuses what cannot be done. Counts stop at
-- a million.
--
-- Only rows that the pipeline has read are sent again: the others it will
-- deliver anyway, and sending them early would put them before older ones.
CREATE FUNCTION tide.relay_replay_plan(pipeline text, from_id bigint, to_id bigint) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bound CONSTANT int := 1000000;
    standing tide.relay_position;
    head pg_snapshot;
    lowest bigint;
    known record;
    weight numeric;
BEGIN
    IF from_id IS NULL OR to_id IS NULL OR from_id > to_id OR from_id < 1 THEN
        RAISE EXCEPTION 'the range from % to % is not allowed', coalesce(from_id::text, 'NULL'), coalesce(to_id::text, 'NULL')
            USING ERRCODE = '22023', HINT = 'Give two row ids, the lower one first; both are included.';
    END IF;
    standing := tide.standing_position(pipeline);
    head := coalesce((standing.open_windows #>> '{-1,snapshot}')::pg_snapshot, standing.base);
    SELECT m.id INTO lowest FROM tide.outbox_message AS m
    WHERE m.outbox_id = standing.outbox_id ORDER BY m.id LIMIT 1;
    SELECT count(*) AS rows, count(*) FILTER (WHERE r.is_read) AS read, min(r.id) AS first, max(r.id) AS last,
        min(r.created_at) AS oldest, max(r.created_at) AS newest
    INTO known
    FROM (
        SELECT m.id, m.created_at, pg_visible_in_snapshot(m.xact, head) AS is_read
        FROM tide.outbox_message AS m
        WHERE m.outbox_id = standing.outbox_id AND m.id BETWEEN from_id AND to_id
        ORDER BY m.id LIMIT bound
    ) AS r;
    IF known.rows = 0 THEN
        RAISE EXCEPTION 'the outbox of pipeline % has no row from % to %', quote_literal(pipeline), from_id, to_id
            USING ERRCODE = '02000', HINT = CASE
                WHEN lowest IS NULL THEN 'Its outbox is empty.'
                WHEN to_id < lowest THEN format('The lowest id still there is %s: retention has removed what was before.', lowest)
                ELSE 'Ids are shared by all outboxes of the database; look for those of yours in tide.outbox_message.' END;
    END IF;
    SELECT avg(pg_column_size(s.payload) + pg_column_size(s.headers) + coalesce(length(s.dedup_key), 36) + 250) INTO weight
    FROM (
        SELECT m.payload, m.headers, m.dedup_key FROM tide.outbox_message AS m
        WHERE m.outbox_id = standing.outbox_id AND m.id BETWEEN from_id AND to_id
        ORDER BY m.id LIMIT 1000
    ) AS s;
    RETURN jsonb_build_object(
        'pipeline', pipeline, 'from_id', from_id, 'to_id', to_id,
        'rows', known.read, 'rows_at_least', known.rows = bound, 'not_read_yet', known.rows - known.read,
        'first_id', known.first, 'last_id', known.last, 'oldest_at', known.oldest, 'newest_at', known.newest,
        'lowest_id', lowest, 'before_lowest', from_id < lowest, 'bytes_per_row', round(weight),
        'queued_before', (SELECT count(*) FROM tide.relay_replay AS q
            WHERE q.pipeline = relay_replay_plan.pipeline AND q.state IN ('queued', 'running')));
END
$$;
COMMENT ON FUNCTION tide.relay_replay_plan(text, bigint, bigint) IS
    'says what tide.relay_replay() with the same arguments would send again; changes nothing';

CREATE FUNCTION tide.relay_replay(pipeline text, from_id bigint, to_id bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made bigint;
BEGIN
    PERFORM tide.relay_replay_plan(pipeline, from_id, to_id);
    INSERT INTO tide.relay_replay AS q (pipeline, outbox_id, from_id, to_id, next_id)
    SELECT relay_replay.pipeline, p.outbox_id, relay_replay.from_id, relay_replay.to_id, relay_replay.from_id
    FROM tide.relay_position AS p WHERE p.pipeline = relay_replay.pipeline
    RETURNING q.replay_id INTO made;
    RETURN made;
END
$$;
COMMENT ON FUNCTION tide.relay_replay(text, bigint, bigint) IS
    'has the rows with these ids (both included) sent again that the pipeline has read; its position stays where it is; gives the replay''s id';

CREATE FUNCTION tide.relay_replay_cancel(pipeline text) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    cancelled int;
BEGIN
    UPDATE tide.relay_replay AS q
    SET state = 'cancelled', updated_at = clock_timestamp(), finished_at = clock_timestamp()
    WHERE q.pipeline = relay_replay_cancel.pipeline AND q.state IN ('queued', 'running');
    GET DIAGNOSTICS cancelled = ROW_COUNT;
    IF cancelled = 0 THEN
        PERFORM tide.standing_position(pipeline);
    END IF;
    RETURN cancelled;
END
$$;
COMMENT ON FUNCTION tide.relay_replay_cancel(text) IS
    'ends the replays of a pipeline that are queued or running, gives how many; what was sent stays sent';

-- Moves a position back. The new base sees what the old one saw, but no
-- transaction as new as the oldest one that wrote a row with an id of "to_id" or
-- above. So every such row is read again, and with them what the same or later
-- transactions wrote under lower ids. What was not settled is read again too,
-- since the old base did not see it. Windows are numbered on from the highest
-- number used, so every row comes under a seq above all earlier ones.
CREATE FUNCTION tide.relay_rewind(pipeline text, to_id bigint, confirm text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bound CONSTANT int := 1000000;
    standing tide.relay_position;
    lowest bigint;
    newest bigint;
    first_xact xid8;
    again bigint;
    new_xmax xid8;
    running xid8[];
    next_epoch bigint;
BEGIN
    -- Outbox (which holds retention off), lease, position: the order in which relays
    -- lock them.
    IF confirm = pipeline THEN
        PERFORM FROM tide.outbox AS o JOIN tide.relay_position AS p ON p.outbox_id = o.outbox_id
        WHERE p.pipeline = relay_rewind.pipeline FOR KEY SHARE OF o;
        PERFORM FROM tide.relay_lease AS l WHERE l.pipeline = relay_rewind.pipeline FOR UPDATE;
        PERFORM FROM tide.relay_position AS p WHERE p.pipeline = relay_rewind.pipeline FOR UPDATE;
    END IF;
    standing := tide.standing_position(pipeline);
    SELECT m.id INTO lowest FROM tide.outbox_message AS m WHERE m.outbox_id = standing.outbox_id ORDER BY m.id LIMIT 1;
    SELECT m.id INTO newest FROM tide.outbox_message AS m WHERE m.outbox_id = standing.outbox_id ORDER BY m.id DESC LIMIT 1;
    IF newest IS NULL THEN
        RAISE EXCEPTION 'the outbox of pipeline % is empty', quote_literal(pipeline)
            USING ERRCODE = '02000', HINT = 'There is nothing to deliver again.';
    END IF;
    IF to_id IS NULL OR to_id > newest THEN
        RAISE EXCEPTION 'row % is above the newest row of the outbox, %', coalesce(to_id::text, 'NULL'), newest
            USING ERRCODE = '22023', HINT = format('Give an id from %s to %s.', lowest, newest);
    END IF;
    IF to_id < lowest THEN
        RAISE EXCEPTION 'row % is not in the outbox, the lowest id still there is %', to_id, lowest
            USING ERRCODE = '22023',
                  HINT = format('Retention has removed what was before, if there was anything. Give an id from %s to %s.', lowest, newest);
    END IF;
    SELECT m.xact INTO first_xact FROM tide.outbox_message AS m
    WHERE m.outbox_id = standing.outbox_id AND m.id >= to_id ORDER BY m.xact LIMIT 1;
    new_xmax := CASE WHEN first_xact < pg_snapshot_xmax(standing.base) THEN first_xact ELSE pg_snapshot_xmax(standing.base) END;
    IF confirm IS DISTINCT FROM pipeline THEN
        SELECT count(*) INTO again FROM (
            SELECT FROM tide.outbox_message AS m
            WHERE m.outbox_id = standing.outbox_id AND m.xact >= new_xmax
                AND pg_visible_in_snapshot(m.xact, standing.base)
            LIMIT bound
        ) AS bounded;
        RETURN jsonb_build_object(
            'done', false, 'pipeline', pipeline, 'to_id', to_id, 'newest_id', newest,
            'rows_again', again, 'rows_at_least', again = bound,
            'hint', format('To do it: SELECT tide.relay_rewind(%L, %s, confirm => %L)', pipeline, to_id, pipeline));
    END IF;
    running := ARRAY(SELECT x.xid FROM pg_snapshot_xip(standing.base) AS x (xid) WHERE x.xid < new_xmax ORDER BY x.xid);
    SELECT 1 + greatest(standing.epoch, (SELECT l.epoch FROM tide.relay_lease AS l WHERE l.pipeline = relay_rewind.pipeline))
    INTO next_epoch;
    UPDATE tide.relay_lease AS l SET owner = '', epoch = next_epoch, expires_at = '-infinity'
    WHERE l.pipeline = relay_rewind.pipeline;
    UPDATE tide.relay_position AS p
    SET epoch = next_epoch, open_windows = '[]', settled_id = 0, marks = '[]', updated_at = clock_timestamp(),
        base = (coalesce(running[1], new_xmax)::text || ':' || new_xmax::text || ':' || array_to_string(running, ','))::pg_snapshot,
        last_number = greatest(p.last_number, (
            SELECT max((w.value ->> 'number')::bigint) FROM jsonb_array_elements(p.open_windows) AS w))
    WHERE p.pipeline = relay_rewind.pipeline;
    -- Every row from to_id on is there: what retention has removed lay before it, and
    -- had been delivered.
    UPDATE tide.relay_position AS p SET began_after = t.removed_rows
    FROM tide.outbox_retention AS t
    WHERE p.pipeline = relay_rewind.pipeline AND t.outbox_id = p.outbox_id;
    -- A row that has a letter is passed over: letters that were delivered would keep
    -- theirs from being delivered again. Open and discarded ones stay.
    DELETE FROM tide.relay_dead_letter AS d
    WHERE d.pipeline = relay_rewind.pipeline AND d.outbox_id = standing.outbox_id AND d.state = 'delivered';
    RETURN jsonb_build_object('done', true, 'pipeline', pipeline, 'to_id', to_id, 'newest_id', newest, 'epoch', next_epoch);
END
$$;
COMMENT ON FUNCTION tide.relay_rewind(text, bigint, text) IS
    'has a pipeline deliver every row from this id on again; confirm must be its name, otherwise it only says what it would do';
