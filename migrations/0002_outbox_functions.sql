-- Outboxes and publishing.
--
-- Functions run with the caller's rights. Those off the hot path pin their
-- search path; the publishing ones do not (a SET costs more than the insert's
-- own overhead) and name the schema of everything instead.
--
-- Parameters are written as function_name.parameter: several share their name
-- with a column.

-- === Checks ===

CREATE FUNCTION tide.check_name(what text, name text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF name IS NULL OR length(name) NOT BETWEEN 1 AND 128 OR name ~ '[[:cntrl:]]' THEN
        RAISE EXCEPTION '% name % is not allowed', what, coalesce(quote_literal(left(name, 140)), 'NULL')
            USING ERRCODE = '22023', HINT = 'A name has 1 to 128 characters and no control characters.';
    END IF;
END
$$;

CREATE FUNCTION tide.check_retention(retention_hours int) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF retention_hours < 1 THEN
        RAISE EXCEPTION 'retention_hours % is not allowed', retention_hours
            USING ERRCODE = '22023', HINT = 'Give at least 1, or NULL to keep delivered messages for ever.';
    END IF;
END
$$;

-- Says why an outbox takes no message.
CREATE FUNCTION tide.refuse_publish(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tide.check_name('outbox', name);
    IF EXISTS (SELECT FROM tide.outbox AS o WHERE o.name = refuse_publish.name AND NOT o.enabled) THEN
        RAISE EXCEPTION 'outbox % is disabled', quote_literal(name)
            USING ERRCODE = '55000', HINT = format('SELECT tide.outbox_enable(%L) makes it take messages again.', name);
    END IF;
    RAISE EXCEPTION 'outbox % does not exist', quote_literal(name)
        USING ERRCODE = '42704', HINT = format('SELECT tide.outbox_create(%L) creates it.', name);
END
$$;

-- Says what is wrong with a message; "place" tells which of several.
CREATE FUNCTION tide.check_message(payload jsonb, headers jsonb, dedup_key text, place text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF payload IS NULL THEN
        RAISE EXCEPTION 'payload% is NULL', place
            USING ERRCODE = '22004', HINT = 'For an event without content publish ''null''::jsonb or ''{}''::jsonb.';
    END IF;
    IF jsonb_typeof(headers) <> 'object' THEN
        RAISE EXCEPTION 'headers% must be a JSON object, not a JSON %', place, jsonb_typeof(headers)
            USING ERRCODE = '22023', HINT = 'For example {"trace_id": "1"}.';
    END IF;
    IF dedup_key = '' THEN
        RAISE EXCEPTION 'dedup_key% is empty', place
            USING ERRCODE = '22023', HINT = 'Give the key of the event''s entity, or NULL: the event id then stands for it.';
    END IF;
END
$$;

-- === Outboxes ===

CREATE FUNCTION tide.outbox_create(name text, retention_hours int DEFAULT 24) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    created int;
BEGIN
    PERFORM tide.check_name('outbox', name);
    PERFORM tide.check_retention(retention_hours);
    INSERT INTO tide.outbox AS o (name, retention_hours)
    VALUES (outbox_create.name, outbox_create.retention_hours)
    ON CONFLICT DO NOTHING
    RETURNING o.outbox_id INTO created;
    IF created IS NULL THEN
        RAISE EXCEPTION 'outbox % already exists', quote_literal(name)
            USING ERRCODE = '42710', HINT = 'tide.outbox_create_if_not_exists() accepts one that exists.';
    END IF;
    RETURN created;
END
$$;
COMMENT ON FUNCTION tide.outbox_create(text, int) IS
    'creates an outbox, gives its id; an error if it exists';

CREATE FUNCTION tide.outbox_create_if_not_exists(name text, retention_hours int DEFAULT 24) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tide.check_name('outbox', name);
    PERFORM tide.check_retention(retention_hours);
    INSERT INTO tide.outbox (name, retention_hours)
    VALUES (outbox_create_if_not_exists.name, outbox_create_if_not_exists.retention_hours)
    ON CONFLICT DO NOTHING;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION tide.outbox_create_if_not_exists(text, int) IS
    'creates an outbox unless it exists (which is then left as it is); gives whether it was created';

-- Makes a pipeline begin anew under numbers it has not used, and fences off the
-- relay that runs it.
CREATE FUNCTION tide.forget_position(pipeline text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    next_epoch bigint;
BEGIN
    -- Lease first, then position: the order in which relays lock them.
    PERFORM FROM tide.relay_lease AS l WHERE l.pipeline = forget_position.pipeline FOR UPDATE;
    PERFORM FROM tide.relay_position AS p WHERE p.pipeline = forget_position.pipeline FOR UPDATE;
    SELECT 1 + greatest(
        (SELECT l.epoch FROM tide.relay_lease AS l WHERE l.pipeline = forget_position.pipeline),
        (SELECT p.epoch FROM tide.relay_position AS p WHERE p.pipeline = forget_position.pipeline)
    ) INTO next_epoch;
    UPDATE tide.relay_lease AS l
    SET owner = '', epoch = next_epoch, expires_at = '-infinity'
    WHERE l.pipeline = forget_position.pipeline;
    UPDATE tide.relay_position AS p
    SET outbox_id = NULL, epoch = next_epoch, base = '1:1:', open_windows = '[]', settled_id = 0, marks = '[]',
        updated_at = clock_timestamp(),
        last_number = greatest(p.last_number, (
            SELECT max((w.value ->> 'number')::bigint) FROM jsonb_array_elements(p.open_windows) AS w))
    WHERE p.pipeline = forget_position.pipeline;
END
$$;

CREATE FUNCTION tide.outbox_drop(name text, if_exists boolean DEFAULT false) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dropped int;
    reader text;
BEGIN
    SELECT o.outbox_id INTO dropped FROM tide.outbox AS o WHERE o.name = outbox_drop.name FOR UPDATE;
    IF dropped IS NULL THEN
        IF if_exists THEN
            RETURN false;
        END IF;
        RAISE EXCEPTION 'outbox % does not exist', coalesce(quote_literal(name), 'NULL')
            USING ERRCODE = '42704', HINT = 'tide.outbox_drop(name, true) accepts a missing one.';
    END IF;
    SELECT r.name INTO reader FROM tide.relay_pipeline AS r WHERE r.outbox = outbox_drop.name AND r.enabled LIMIT 1;
    IF reader IS NOT NULL THEN
        RAISE EXCEPTION 'outbox % is read by the enabled pipeline %', quote_literal(name), quote_literal(reader)
            USING ERRCODE = '55006',
                  HINT = format('Disable or delete it first: SELECT tide.relay_disable(%L).', reader);
    END IF;
    SELECT p.pipeline INTO reader
    FROM tide.relay_position AS p JOIN tide.relay_lease AS l ON l.pipeline = p.pipeline
    WHERE p.outbox_id = dropped AND l.expires_at > clock_timestamp() LIMIT 1;
    IF reader IS NOT NULL THEN
        RAISE EXCEPTION 'outbox % is read by the pipeline %, which a relay is running', quote_literal(name), quote_literal(reader)
            USING ERRCODE = '55006', HINT = 'Take it out of the relay''s configuration, or wait until its lease has ended.';
    END IF;
    PERFORM tide.forget_position(p.pipeline)
    FROM tide.relay_position AS p WHERE p.outbox_id = dropped ORDER BY p.pipeline;
    DELETE FROM tide.outbox AS o WHERE o.outbox_id = dropped;
    DELETE FROM tide.outbox_message AS m WHERE m.outbox_id = dropped;
    RETURN true;
END
$$;
COMMENT ON FUNCTION tide.outbox_drop(text, boolean) IS
    'drops an outbox with all its messages, delivered or not; refused while an enabled or running pipeline reads it';

CREATE FUNCTION tide.outbox_set_enabled(name text, enabled boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE tide.outbox AS o SET enabled = outbox_set_enabled.enabled WHERE o.name = outbox_set_enabled.name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'outbox % does not exist', coalesce(quote_literal(name), 'NULL') USING ERRCODE = '42704',
            HINT = 'SELECT name FROM tide.outbox lists the outboxes.';
    END IF;
END
$$;

CREATE FUNCTION tide.outbox_enable(name text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT tide.outbox_set_enabled(name, true) $$;
COMMENT ON FUNCTION tide.outbox_enable(text) IS 'makes an outbox take messages';

CREATE FUNCTION tide.outbox_disable(name text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT tide.outbox_set_enabled(name, false) $$;
COMMENT ON FUNCTION tide.outbox_disable(text) IS
    'makes an outbox refuse new messages; those it has are delivered';

-- === Publishing ===

CREATE FUNCTION tide.outbox_publish(
    name text, payload jsonb, headers jsonb DEFAULT '{}'::jsonb, dedup_key text DEFAULT NULL
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    published bigint;
BEGIN
    IF payload IS NULL OR pg_catalog.jsonb_typeof(headers) <> 'object' OR dedup_key = '' THEN
        PERFORM tide.check_message(payload, headers, dedup_key, '');
    END IF;
    INSERT INTO tide.outbox_message AS m (outbox_id, dedup_key, payload, headers)
    SELECT o.outbox_id, outbox_publish.dedup_key, outbox_publish.payload, coalesce(outbox_publish.headers, '{}')
    FROM tide.outbox AS o
    WHERE o.name = outbox_publish.name AND o.enabled
    RETURNING m.id INTO published;
    IF published IS NULL THEN
        PERFORM tide.refuse_publish(name);
    END IF;
    RETURN published;
END
$$;
COMMENT ON FUNCTION tide.outbox_publish(text, jsonb, jsonb, text) IS
    'publishes a message in the caller''s transaction, gives its id; one insert, no lock, no NOTIFY';

CREATE FUNCTION tide.outbox_publish_many(
    name text, payloads jsonb[], headers jsonb[] DEFAULT NULL, dedup_keys text[] DEFAULT NULL
) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    target int;
    messages int := pg_catalog.cardinality(payloads);
    published bigint[];
BEGIN
    SELECT o.outbox_id INTO target FROM tide.outbox AS o WHERE o.name = outbox_publish_many.name AND o.enabled;
    IF target IS NULL THEN
        PERFORM tide.refuse_publish(name);
    END IF;
    IF payloads IS NULL THEN
        RAISE EXCEPTION 'payloads is NULL' USING ERRCODE = '22004', HINT = 'Give an array of jsonb, one per message.';
    END IF;
    IF pg_catalog.cardinality(headers) <> messages OR pg_catalog.cardinality(dedup_keys) <> messages THEN
        RAISE EXCEPTION 'payloads has % elements, headers %, dedup_keys %', messages,
            coalesce(pg_catalog.cardinality(headers)::text, 'NULL'),
            coalesce(pg_catalog.cardinality(dedup_keys)::text, 'NULL')
            USING ERRCODE = '22023', HINT = 'Give arrays of the same length, or NULL for headers or dedup_keys.';
    END IF;
    PERFORM tide.check_message(m.payload, m.headers, m.dedup_key, ' of message ' || m.place)
    FROM unnest(payloads, outbox_publish_many.headers, dedup_keys) WITH ORDINALITY AS m (payload, headers, dedup_key, place)
    WHERE m.payload IS NULL OR pg_catalog.jsonb_typeof(m.headers) <> 'object' OR m.dedup_key = '';
    -- Ids are drawn after the sort, so they rise in the order of the array.
    WITH inserted AS (
        INSERT INTO tide.outbox_message AS t (outbox_id, dedup_key, payload, headers)
        SELECT target, m.dedup_key, m.payload, coalesce(m.headers, '{}')
        FROM unnest(payloads, outbox_publish_many.headers, dedup_keys) WITH ORDINALITY AS m (payload, headers, dedup_key, place)
        ORDER BY m.place
        RETURNING t.id
    )
    SELECT coalesce(pg_catalog.array_agg(i.id ORDER BY i.id), '{}') INTO published FROM inserted AS i;
    RETURN published;
END
$$;
COMMENT ON FUNCTION tide.outbox_publish_many(text, jsonb[], jsonb[], text[]) IS
    'publishes messages in one statement, in array order, gives their ids; headers and dedup_keys may be NULL';
