-- How far behind pipelines are, cheap at any backlog: every count stops at a
-- bound, and says so.

-- Rows of an outbox that a snapshot does not see, counted up to "bound", and
-- when the first of them (by transaction id) was inserted.
--
-- Transactions that still run are left out first: their rows cannot be seen
-- yet, however many there are. The equality on a late xid is written as a range
-- so that only the index by transaction gives the order.
CREATE FUNCTION tide.outbox_unseen(
    outbox_id int, seen pg_snapshot, bound int, OUT unseen bigint, OUT oldest_at timestamptz
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    first_fresh CONSTANT xid8 := pg_snapshot_xmax(seen);
    first_future CONSTANT xid8 := pg_snapshot_xmax(pg_current_snapshot());
    late CONSTANT xid8[] := ARRAY(
        SELECT x.xid FROM pg_snapshot_xip(seen) AS x (xid)
        WHERE pg_visible_in_snapshot(x.xid, pg_current_snapshot()));
BEGIN
    SELECT count(*) INTO unseen FROM (
        (
            SELECT FROM tide.outbox_message AS m
            WHERE m.outbox_id = outbox_unseen.outbox_id AND m.xact >= first_fresh AND m.xact < first_future
            ORDER BY m.xact, m.id LIMIT bound
        )
        UNION ALL
        (
            SELECT FROM unnest(late) AS x (xid) CROSS JOIN LATERAL (
                SELECT FROM tide.outbox_message AS m
                WHERE m.outbox_id = outbox_unseen.outbox_id AND m.xact >= x.xid AND m.xact <= x.xid
                ORDER BY m.xact, m.id LIMIT bound
            ) AS of_transaction
            LIMIT bound
        )
        LIMIT bound
    ) AS bounded;
    SELECT least(
        (
            SELECT m.created_at FROM tide.outbox_message AS m
            WHERE m.outbox_id = outbox_unseen.outbox_id AND m.xact >= first_fresh AND m.xact < first_future
            ORDER BY m.xact, m.id LIMIT 1
        ),
        (
            SELECT min(of_transaction.created_at) FROM unnest(late) AS x (xid) CROSS JOIN LATERAL (
                SELECT m.created_at FROM tide.outbox_message AS m
                WHERE m.outbox_id = outbox_unseen.outbox_id AND m.xact >= x.xid AND m.xact <= x.xid
                ORDER BY m.xact, m.id LIMIT 1
            ) AS of_transaction
        )
    ) INTO oldest_at;
END
$$;

-- Rows that are not settled behind a position, counted up to 10,001.
--
-- Of the first open window the rows up to the settled id are done. What is left
-- of it is looked for among the next ids only, not through the whole window.
CREATE FUNCTION tide.outbox_pending(
    outbox_id int, base pg_snapshot, first_window pg_snapshot, settled_id bigint,
    OUT pending bigint, OUT at_least boolean, OUT oldest_at timestamptz
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    bound CONSTANT int := 10001;
    prefix_settled CONSTANT boolean := first_window IS NOT NULL AND settled_id > 0;
    looked_at bigint := 0;
    of_first bigint := 0;
    first_oldest_at timestamptz;
BEGIN
    SELECT u.unseen, u.oldest_at INTO pending, oldest_at
    FROM tide.outbox_unseen(
        outbox_id, CASE WHEN prefix_settled THEN first_window ELSE base END, bound) AS u;
    IF prefix_settled THEN
        SELECT count(*), count(*) FILTER (WHERE n.in_window), min(n.created_at) FILTER (WHERE n.in_window)
        INTO looked_at, of_first, first_oldest_at
        FROM (
            SELECT m.created_at,
                NOT pg_visible_in_snapshot(m.xact, base) AND pg_visible_in_snapshot(m.xact, first_window) AS in_window
            FROM tide.outbox_message AS m
            WHERE m.outbox_id = outbox_pending.outbox_id AND m.id > outbox_pending.settled_id
            ORDER BY m.id LIMIT bound
        ) AS n;
    END IF;
    pending := least(pending + of_first, bound);
    at_least := pending = bound OR looked_at = bound;
    oldest_at := least(oldest_at, first_oldest_at);
END
$$;

CREATE VIEW tide.outbox_lag AS
SELECT
    coalesce(r.name, p.pipeline) AS pipeline,
    o.name AS outbox,
    r.consumer_group,
    CASE WHEN r.name IS NULL THEN 'file' ELSE 'database' END AS defined_in,
    -- The relay's file says whether a pipeline of it is enabled.
    r.enabled,
    lag.pending,
    lag.at_least AS pending_at_least,
    lag.oldest_at,
    CASE WHEN lag.oldest_at IS NOT NULL THEN greatest(clock_timestamp() - lag.oldest_at, '0'::interval) END AS oldest_age,
    p.updated_at AS position_updated_at,
    CASE WHEN l.expires_at > clock_timestamp() THEN l.owner END AS owner
FROM tide.relay_pipeline AS r
FULL JOIN tide.relay_position AS p ON p.pipeline = r.name
JOIN tide.outbox AS o ON (p.outbox_id IS NOT NULL AND o.outbox_id = p.outbox_id)
    OR (p.outbox_id IS NULL AND o.name = r.outbox)
LEFT JOIN tide.relay_lease AS l ON l.pipeline = coalesce(r.name, p.pipeline)
CROSS JOIN LATERAL tide.outbox_pending(
    o.outbox_id, coalesce(p.base, '1:1:'), (p.open_windows #>> '{0,snapshot}')::pg_snapshot, coalesce(p.settled_id, 0)
) AS lag;
COMMENT ON VIEW tide.outbox_lag IS
    'what waits behind each pipeline: rows (counted up to 10,001, then pending_at_least) and age of the oldest';

CREATE FUNCTION tide.outbox_status(name text) RETURNS jsonb
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
            FROM tide.outbox_lag AS lag WHERE lag.outbox = o.name), '[]')
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
    'an outbox and the pipelines that read it, with what waits behind each';
