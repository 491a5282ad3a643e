-- Pauses: an operator holds a pipeline, all pipelines of a tenant or all that
-- write to a stream, until somebody says otherwise. And what each pipeline is
-- doing, as the relays say it.

-- === Pauses ===

-- A pause is of a name, whether anything of that name exists or not: a pipeline
-- that is deleted and defined again is still paused. A stream is named by its name
-- (all streams of that name, whatever the region and account) or by its ARN.
CREATE TABLE tide.relay_pause (
    kind text NOT NULL,
    name text NOT NULL,
    reason text NOT NULL DEFAULT '',
    paused_by text NOT NULL DEFAULT session_user,
    paused_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- From the same sequence as the versions of pipelines: count and sum of these
    -- tell any two states of the table apart, so that relays look for changes with
    -- the statement that looks at pipelines anyway.
    version bigint NOT NULL DEFAULT nextval('tide.relay_pipeline_version'),
    PRIMARY KEY (kind, name),
    CONSTRAINT relay_pause_kind CHECK (kind IN ('pipeline', 'tenant', 'stream')),
    CONSTRAINT relay_pause_name_length CHECK (length(name) BETWEEN 1 AND 256),
    CONSTRAINT relay_pause_reason_length CHECK (length(reason) <= 1000)
);
COMMENT ON TABLE tide.relay_pause IS 'what is paused, written by tide.relay_pause() and tide.relay_resume()';

-- === States ===

-- What a pipeline is doing, written by relays when it changes and not otherwise.
-- With an epoch: by its owner, and true as long as that lease runs. Without one: by
-- any relay, of a pipeline that none runs (paused, invalid, waiting, failed).
CREATE TABLE tide.relay_pipeline_state (
    pipeline text PRIMARY KEY,
    node text NOT NULL,
    epoch bigint,
    state text NOT NULL,
    reason text,
    since timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0
);
COMMENT ON TABLE tide.relay_pipeline_state IS
    'what each pipeline is doing, as a relay wrote it last; the view tide.relay_status also knows whether that relay lives';

-- The pauses that hold a pipeline, as far as its definition in the database tells;
-- of one of a file only its name is known here. (A stream that is paused by its ARN
-- holds pipelines that name it otherwise too, if it is in their region: without a
-- region in the definition only the relay knows, and says so in the state.)
CREATE FUNCTION tide.pauses_of(pipeline text, config jsonb) RETURNS SETOF tide.relay_pause
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.* FROM tide.relay_pause AS p
    WHERE p.kind = 'pipeline' AND p.name = pauses_of.pipeline
        OR config IS NOT NULL AND (
            p.kind = 'tenant' AND p.name = coalesce(config ->> 'tenant', 'default')
            OR p.kind = 'stream' AND (
                p.name IN (config ->> 'stream_arn', config ->> 'stream_name', split_part(config ->> 'stream_arn', '/', 2))
                OR config ->> 'stream_arn' IS NULL AND p.name LIKE 'arn:%'
                    AND split_part(p.name, '/', 2) = config ->> 'stream_name'
                    AND split_part(p.name, ':', 4) = config ->> 'region'))
    ORDER BY p.kind, p.name
$$;

CREATE VIEW tide.relay_status AS
SELECT
    known.pipeline,
    CASE WHEN r.name IS NULL THEN 'file' ELSE 'database' END AS defined_in,
    r.enabled,
    -- An owner whose lease is over says nothing any more.
    CASE WHEN s.epoch IS NULL OR runs.owner IS NOT NULL THEN s.state ELSE 'stopped' END AS state,
    CASE WHEN s.epoch IS NULL OR runs.owner IS NOT NULL THEN s.reason END AS reason,
    s.since,
    s.node,
    coalesce(pauses.list IS NOT NULL OR s.state = 'paused', false) AS paused,
    coalesce(pauses.list, '[]') AS pauses
FROM (
    SELECT d.name AS pipeline FROM tide.relay_pipeline AS d
    UNION SELECT p.pipeline FROM tide.relay_position AS p WHERE p.outbox_id IS NOT NULL
    UNION SELECT t.pipeline FROM tide.relay_pipeline_state AS t
) AS known
LEFT JOIN tide.relay_pipeline AS r ON r.name = known.pipeline
LEFT JOIN tide.relay_pipeline_state AS s ON s.pipeline = known.pipeline
LEFT JOIN tide.relay_lease AS runs ON runs.pipeline = known.pipeline
    AND runs.owner = s.node AND runs.epoch = s.epoch AND runs.expires_at > clock_timestamp()
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object(
        'kind', held.kind, 'name', held.name, 'reason', held.reason,
        'paused_by', held.paused_by, 'paused_at', held.paused_at)) AS list
    FROM tide.pauses_of(known.pipeline, r.config) AS held
) AS pauses ON true;
COMMENT ON VIEW tide.relay_status IS
    'what each pipeline is doing and why: state and reason as its relay says it, and the pauses that hold it';

-- === Pausing and resuming ===

CREATE FUNCTION tide.check_pause(kind text, name text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF kind IS NULL OR kind NOT IN ('pipeline', 'tenant', 'stream') THEN
        RAISE EXCEPTION '% cannot be paused', coalesce(quote_literal(kind), 'NULL') USING ERRCODE = '22023',
            HINT = 'Expected ''pipeline'', ''tenant'' or ''stream''.';
    END IF;
    IF name IS NULL OR length(name) NOT BETWEEN 1 AND 256 THEN
        RAISE EXCEPTION 'the name of the % is %', kind, CASE WHEN name IS NULL THEN 'NULL' ELSE length(name) || ' characters long' END
            USING ERRCODE = '22023', HINT = 'Expected 1 to 256 characters.';
    END IF;
    IF kind = 'stream' AND name LIKE 'arn:%' AND name !~ '^arn:[a-z0-9-]+:kinesis:[a-z0-9-]+:[0-9]{12}:stream/[a-zA-Z0-9_.-]{1,128}$' THEN
        RAISE EXCEPTION 'the stream % is not an ARN', quote_literal(name) USING ERRCODE = '22023',
            HINT = 'Expected arn:aws:kinesis:REGION:ACCOUNT:stream/NAME, or the stream''s name alone.';
    END IF;
    IF kind = 'stream' AND name NOT LIKE 'arn:%' AND name !~ '^[a-zA-Z0-9_.-]{1,128}$' THEN
        RAISE EXCEPTION 'the stream % cannot exist', quote_literal(name) USING ERRCODE = '22023',
            HINT = 'Expected 1 to 128 of the characters a-z A-Z 0-9 _ . -, or an ARN.';
    END IF;
END
$$;

-- Whether a pipeline is defined here, or has run here.
CREATE FUNCTION tide.knows_pipeline(name text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM tide.relay_pipeline AS r WHERE r.name = knows_pipeline.name)
        OR EXISTS (SELECT FROM tide.relay_lease AS l WHERE l.pipeline = knows_pipeline.name)
        OR EXISTS (SELECT FROM tide.relay_pipeline_state AS s WHERE s.pipeline = knows_pipeline.name)
$$;

CREATE FUNCTION tide.relay_pause(kind text, name text, why text DEFAULT NULL, ahead boolean DEFAULT false) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_new boolean;
BEGIN
    PERFORM tide.check_pause(kind, name);
    IF length(why) > 1000 THEN
        RAISE EXCEPTION 'the reason is % characters long', length(why) USING ERRCODE = '22023', HINT = 'Expected up to 1000.';
    END IF;
    IF kind = 'pipeline' AND ahead IS NOT TRUE AND NOT tide.knows_pipeline(name) THEN
        RAISE EXCEPTION 'pipeline % does not exist', quote_literal(name) USING ERRCODE = '42704',
            HINT = format('SELECT pipeline FROM tide.relay_status lists those that are known; SELECT tide.relay_pause(''pipeline'', %L, ahead => true) pauses one that is still to come.', name);
    END IF;
    INSERT INTO tide.relay_pause AS p (kind, name, reason)
    VALUES (relay_pause.kind, relay_pause.name, coalesce(why, ''))
    ON CONFLICT ON CONSTRAINT relay_pause_pkey DO NOTHING;
    is_new := FOUND;
    IF NOT is_new AND why IS NOT NULL THEN
        -- Who paused it, and when, stays: the reason is what is news.
        UPDATE tide.relay_pause AS p SET reason = why, version = nextval('tide.relay_pipeline_version')
        WHERE p.kind = relay_pause.kind AND p.name = relay_pause.name AND p.reason <> why;
    END IF;
    RETURN is_new;
END
$$;
COMMENT ON FUNCTION tide.relay_pause(text, text, text, boolean) IS
    'pauses a ''pipeline'', a ''tenant'' or a ''stream'' (by name or ARN) within two seconds, for all relays; if it is paused already the reason is replaced; gives whether it was not';

CREATE FUNCTION tide.relay_resume(kind text, name text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tide.check_pause(kind, name);
    DELETE FROM tide.relay_pause AS p WHERE p.kind = relay_resume.kind AND p.name = relay_resume.name;
    IF FOUND THEN
        RETURN true;
    END IF;
    IF kind = 'pipeline' AND NOT tide.knows_pipeline(name) THEN
        RAISE EXCEPTION 'pipeline % does not exist', quote_literal(name) USING ERRCODE = '42704',
            HINT = 'SELECT kind, name FROM tide.relay_pauses() lists what is paused.';
    END IF;
    RETURN false;
END
$$;
COMMENT ON FUNCTION tide.relay_resume(text, text) IS
    'ends a pause; pipelines that another pause holds stay paused; gives whether there was one';

CREATE FUNCTION tide.relay_pauses() RETURNS TABLE (
    kind text, name text, reason text, paused_by text, paused_at timestamptz, pipelines text[]
)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.kind, p.name, p.reason, p.paused_by, p.paused_at, ARRAY(
        SELECT s.pipeline FROM tide.relay_status AS s
        WHERE s.pauses @> jsonb_build_array(jsonb_build_object('kind', p.kind, 'name', p.name))
        ORDER BY s.pipeline)
    FROM tide.relay_pause AS p ORDER BY p.kind, p.name
$$;
COMMENT ON FUNCTION tide.relay_pauses() IS
    'lists the pauses, and which pipelines of the database each of them holds';

-- === Where users look ===

CREATE OR REPLACE VIEW tide.outbox_lag AS
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
    CASE WHEN l.expires_at > clock_timestamp() THEN l.owner END AS owner,
    status.state,
    status.reason AS state_reason,
    coalesce(status.paused, false) AS paused
FROM tide.relay_pipeline AS r
FULL JOIN tide.relay_position AS p ON p.pipeline = r.name
JOIN tide.outbox AS o ON (p.outbox_id IS NOT NULL AND o.outbox_id = p.outbox_id)
    OR (p.outbox_id IS NULL AND o.name = r.outbox)
LEFT JOIN tide.relay_lease AS l ON l.pipeline = coalesce(r.name, p.pipeline)
LEFT JOIN tide.relay_status AS status ON status.pipeline = coalesce(r.name, p.pipeline)
CROSS JOIN LATERAL tide.outbox_pending(
    o.outbox_id, coalesce(p.base, '1:1:'), (p.open_windows #>> '{0,snapshot}')::pg_snapshot, coalesce(p.settled_id, 0)
) AS lag;

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
                'state', lag.state,
                'state_reason', lag.state_reason,
                'paused', lag.paused,
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

-- Who is paused holds rows like everybody else: here is who and why.
CREATE OR REPLACE FUNCTION tide.outbox_retention_status(outbox_id int) RETURNS jsonb
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
                'paused', coalesce(status.paused, false),
                'rows', h.held,
                'rows_at_least', h.held = 10001,
                'oldest_at', h.oldest_at,
                'oldest_age_seconds', round(extract(epoch FROM clock_timestamp() - h.oldest_at)::numeric, 3),
                'held_since', h.oldest_at + o.retention_hours * interval '1 hour'
            ) ORDER BY h.oldest_at, r.pipeline)
            FROM tide.outbox_reader AS r
            LEFT JOIN tide.relay_pipeline AS d ON d.name = r.pipeline
            LEFT JOIN tide.relay_status AS status ON status.pipeline = r.pipeline
            CROSS JOIN LATERAL tide.outbox_held(
                r.outbox_id, r.base, clock_timestamp() - o.retention_hours * interval '1 hour', 10001) AS h
            WHERE r.outbox_id = o.outbox_id AND o.retention_hours IS NOT NULL AND h.held > 0), '[]')
    )
    FROM tide.outbox AS o
    LEFT JOIN tide.outbox_retention AS t ON t.outbox_id = o.outbox_id
    CROSS JOIN LATERAL (SELECT tide.outbox_oldest_kept(o.outbox_id) AS at) AS oldest
    WHERE o.outbox_id = outbox_retention_status.outbox_id
$$;

-- More columns need a function anew.
DROP FUNCTION tide.relay_list_configs();
CREATE FUNCTION tide.relay_list_configs() RETURNS TABLE (
    name text, outbox text, consumer_group text, enabled boolean, config jsonb, version bigint,
    created_at timestamptz, updated_at timestamptz, state text, state_reason text, paused boolean
)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.name, r.outbox, r.consumer_group, r.enabled, tide.mask_config(r.config), r.version, r.created_at, r.updated_at,
        s.state, s.reason, coalesce(s.paused, false)
    FROM tide.relay_pipeline AS r LEFT JOIN tide.relay_status AS s ON s.pipeline = r.name ORDER BY r.name
$$;
COMMENT ON FUNCTION tide.relay_list_configs() IS
    'lists the pipelines of the database, secrets masked, with what each is doing';

-- === Deleted and forgotten pipelines ===

-- A pause outlives its pipeline, what was said of it does not.
CREATE OR REPLACE FUNCTION tide.relay_delete(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM tide.relay_pipeline AS r WHERE r.name = relay_delete.name;
    IF NOT FOUND THEN
        PERFORM tide.refuse_pipeline(name);
    END IF;
    PERFORM tide.forget_position(name);
    DELETE FROM tide.relay_pipeline_state AS s WHERE s.pipeline = relay_delete.name;
END
$$;

CREATE OR REPLACE FUNCTION tide.relay_forget(pipeline text) RETURNS void
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
    -- Nobody holds its lease, but it is to go on where it stopped.
    IF EXISTS (
        SELECT FROM tide.relay_pipeline_state AS s WHERE s.pipeline = relay_forget.pipeline AND s.state = 'paused'
    ) THEN
        RAISE EXCEPTION 'pipeline % is paused', quote_literal(pipeline) USING ERRCODE = '55006',
            HINT = format('Take it out of the relay''s configuration first: the relay then no longer says so. If there is no relay any more: DELETE FROM tide.relay_pipeline_state WHERE pipeline = %L.', pipeline);
    END IF;
    IF NOT EXISTS (
        SELECT FROM tide.relay_position AS p WHERE p.pipeline = relay_forget.pipeline AND p.outbox_id IS NOT NULL
    ) THEN
        RAISE EXCEPTION 'pipeline % has no position', coalesce(quote_literal(pipeline), 'NULL') USING ERRCODE = '42704',
            HINT = 'SELECT pipeline FROM tide.relay_position WHERE outbox_id IS NOT NULL lists those that have one.';
    END IF;
    PERFORM tide.forget_position(pipeline);
    DELETE FROM tide.relay_pipeline_state AS s WHERE s.pipeline = relay_forget.pipeline;
END
$$;
