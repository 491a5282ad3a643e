-- Pipelines that are defined in the database: their configuration is checked
-- here, where the person who writes it sees the error.

-- === Checks ===

-- Refuses a partition key template with a mistake in it.
CREATE FUNCTION tide.check_template(template text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    variables CONSTANT text :=
        'Variables are {dedup_key}, {stream_table}, {outbox}, {event_id}, {tenant}, {headers.NAME} and '
        '{payload.path.to.field}; {{ and }} are literal braces.';
    rest text := template;
    brace int;
    closing int;
    variable text;
BEGIN
    LOOP
        brace := least(nullif(strpos(rest, '{'), 0), nullif(strpos(rest, '}'), 0));
        EXIT WHEN brace IS NULL;
        IF substr(rest, brace, 2) IN ('{{', '}}') THEN
            rest := substr(rest, brace + 2);
            CONTINUE;
        END IF;
        IF substr(rest, brace, 1) = '}' THEN
            RAISE EXCEPTION 'config key "partition_key": % has a } without a { before it', quote_literal(template)
                USING ERRCODE = '22023', HINT = variables;
        END IF;
        closing := strpos(substr(rest, brace), '}');
        IF closing = 0 THEN
            RAISE EXCEPTION 'config key "partition_key": % has a { that is not closed', quote_literal(template)
                USING ERRCODE = '22023', HINT = variables;
        END IF;
        variable := substr(rest, brace + 1, closing - 2);
        IF variable NOT IN ('dedup_key', 'stream_table', 'outbox', 'event_id', 'tenant')
            AND variable !~ '^headers\.[^{}]+$' AND variable !~ '^payload(\.[^.{}]+)+$'
        THEN
            RAISE EXCEPTION 'config key "partition_key": % has the unknown variable {%}', quote_literal(template), variable
                USING ERRCODE = '22023', HINT = variables;
        END IF;
        rest := substr(rest, brace + closing);
    END LOOP;
END
$$;

-- Refuses a value of the wrong type or outside its range. "shown" is what the
-- message may show of it.
CREATE FUNCTION tide.refuse_value(key text, shown text, expected text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'config key "%": % is not allowed', key, shown
        USING ERRCODE = '22023', HINT = format('Expected %s.', expected);
END
$$;

CREATE FUNCTION tide.check_integer(key text, value jsonb, lowest bigint, highest bigint, expected text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF jsonb_typeof(value) <> 'number' OR value::text !~ '^-?[0-9]+$' THEN
        PERFORM tide.refuse_value(key, left(value::text, 100), expected);
    ELSIF (value::text)::numeric NOT BETWEEN lowest AND highest THEN
        PERFORM tide.refuse_value(key, left(value::text, 100), expected);
    END IF;
END
$$;

CREATE FUNCTION tide.check_choice(key text, value jsonb, allowed text[], expected text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF jsonb_typeof(value) <> 'string' OR value #>> '{}' <> ALL (allowed) THEN
        PERFORM tide.refuse_value(key, left(value::text, 100), expected);
    END IF;
END
$$;

CREATE FUNCTION tide.check_pattern(key text, value jsonb, pattern text, expected text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF jsonb_typeof(value) <> 'string' OR value #>> '{}' !~ pattern THEN
        PERFORM tide.refuse_value(key, left(value::text, 200), expected);
    END IF;
END
$$;

CREATE FUNCTION tide.check_rate_limit(rate_limit jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    item record;
    key text;
BEGIN
    IF jsonb_typeof(rate_limit) <> 'object' THEN
        PERFORM tide.refuse_value('rate_limit', left(rate_limit::text, 100),
            'an object such as {"max_messages_per_second": 500, "burst_size": 100}');
    END IF;
    FOR item IN SELECT e.key, e.value FROM jsonb_each(rate_limit) AS e LOOP
        key := 'rate_limit.' || item.key;
        CASE item.key
            WHEN 'enabled' THEN
                IF jsonb_typeof(item.value) <> 'boolean' THEN
                    PERFORM tide.refuse_value(key, left(item.value::text, 100), 'true or false');
                END IF;
            WHEN 'max_messages_per_second' THEN
                IF jsonb_typeof(item.value) <> 'number' THEN
                    PERFORM tide.refuse_value(key, left(item.value::text, 100), 'a number above 0, at most 1e9');
                ELSIF (item.value::text)::numeric <= 0 OR (item.value::text)::numeric > 1e9 THEN
                    PERFORM tide.refuse_value(key, left(item.value::text, 100), 'a number above 0, at most 1e9');
                END IF;
            WHEN 'burst_size' THEN
                PERFORM tide.check_integer(key, item.value, 1, 1000000, 'an integer from 1 to 1000000');
            WHEN 'max_bytes_per_second' THEN
                PERFORM tide.check_integer(key, item.value, 1, 9223372036854775807, 'an integer of at least 1');
            ELSE
                RAISE EXCEPTION 'config key "%" is not known', key USING ERRCODE = '22023',
                    HINT = 'Keys of rate_limit are enabled, max_messages_per_second, burst_size, max_bytes_per_second.';
        END CASE;
    END LOOP;
    IF coalesce((rate_limit ->> 'enabled')::boolean, true)
        AND NOT rate_limit ?| '{max_messages_per_second,max_bytes_per_second}' THEN
        PERFORM tide.refuse_value('rate_limit', left(rate_limit::text, 100),
            'max_messages_per_second, max_bytes_per_second or both');
    END IF;
END
$$;

CREATE FUNCTION tide.check_config(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    item record;
BEGIN
    IF config IS NULL OR jsonb_typeof(config) <> 'object' THEN
        RAISE EXCEPTION 'config must be a JSON object, not %',
            coalesce('a JSON ' || jsonb_typeof(config), 'NULL')
            USING ERRCODE = '22023', HINT = 'For example {"sink_type": "kinesis", "stream_name": "events"}.';
    END IF;
    FOR item IN SELECT e.key, e.value FROM jsonb_each(config) AS e LOOP
        CASE item.key
            WHEN 'sink_type' THEN
                PERFORM tide.check_choice(item.key, item.value, '{kinesis}', '"kinesis"');
            WHEN 'stream_name' THEN
                PERFORM tide.check_pattern(item.key, item.value, '^[a-zA-Z0-9_.-]{1,128}$',
                    'a stream''s name: 1 to 128 of the characters a-z A-Z 0-9 _ . -');
            WHEN 'stream_arn' THEN
                PERFORM tide.check_pattern(item.key, item.value, '^arn:[^:]+:kinesis:[^:]+:[0-9]{12}:stream/[a-zA-Z0-9_.-]{1,128}$',
                    'an ARN such as arn:aws:kinesis:us-east-1:123456789012:stream/events');
            WHEN 'role_arn' THEN
                PERFORM tide.check_pattern(item.key, item.value, '^arn:[^:]+:iam::[0-9]{12}:role/.+$',
                    'an ARN such as arn:aws:iam::123456789012:role/relay');
            WHEN 'region' THEN
                PERFORM tide.check_pattern(item.key, item.value, '^[a-z0-9-]{1,63}$', 'a region such as us-east-1');
            WHEN 'partition_key' THEN
                IF jsonb_typeof(item.value) <> 'string' OR item.value = '""' THEN
                    PERFORM tide.refuse_value(item.key, left(item.value::text, 100),
                        'a template such as {dedup_key}');
                END IF;
                PERFORM tide.check_template(item.value #>> '{}');
            WHEN 'external_id' THEN
                -- It is sent to whoever owns the role, so it must not be able to
                -- name one of the relay's own secrets.
                IF jsonb_typeof(item.value) <> 'string' OR item.value = '""' OR item.value::text LIKE '%${%' THEN
                    PERFORM tide.refuse_value(item.key, 'a JSON ' || jsonb_typeof(item.value),
                        'a string that is not empty; ${env:NAME} and ${file:/path} work only in the relay''s file');
                END IF;
            WHEN 'access_key_id', 'secret_access_key', 'session_token' THEN
                -- Never shown, not even when it is wrong.
                IF jsonb_typeof(item.value) <> 'string' OR item.value = '""' THEN
                    PERFORM tide.refuse_value(item.key,
                        CASE WHEN item.value = '""' THEN 'an empty string' ELSE 'a JSON ' || jsonb_typeof(item.value) END,
                        'a string that is not empty, ${env:NAME} or ${file:/path}');
                END IF;
            WHEN 'tenant' THEN
                PERFORM tide.check_pattern(item.key, item.value, '^[^[:cntrl:]]{1,128}$',
                    'a name of 1 to 128 characters, none of them a control character');
            WHEN 'batch_size' THEN
                PERFORM tide.check_integer(item.key, item.value, 1, 500, 'an integer from 1 to 500');
            WHEN 'weight' THEN
                PERFORM tide.check_integer(item.key, item.value, 1, 1000, 'an integer from 1 to 1000');
            WHEN 'rate_limit' THEN
                PERFORM tide.check_rate_limit(item.value);
            WHEN 'format' THEN
                PERFORM tide.check_choice(item.key, item.value, '{native,payload,cloudevents}',
                    '"native", "payload" or "cloudevents"');
            WHEN 'ordering' THEN
                PERFORM tide.check_choice(item.key, item.value, '{key}', '"key"; this version supports no other');
            WHEN 'on_poison' THEN
                PERFORM tide.check_choice(item.key, item.value, '{halt}', '"halt"; this version supports no other');
            WHEN 'aggregation' THEN
                PERFORM tide.check_choice(item.key, item.value, '{none}', '"none"; this version supports no other');
            WHEN 'compression' THEN
                PERFORM tide.check_choice(item.key, item.value, '{none}', '"none"; this version supports no other');
            WHEN 'endpoint_url' THEN
                RAISE EXCEPTION 'config key "endpoint_url" is not allowed here' USING ERRCODE = '22023',
                    DETAIL = 'Whoever may write a pipeline could send the relay''s credentials elsewhere with it.',
                    HINT = 'The operator sets the endpoint in the relay''s file or with AWS_ENDPOINT_URL.';
            ELSE
                RAISE EXCEPTION 'config key "%" is not known', item.key USING ERRCODE = '22023',
                    HINT = 'Keys are sink_type, stream_name, stream_arn, region, partition_key, access_key_id, '
                        'secret_access_key, session_token, role_arn, external_id, batch_size, rate_limit, ordering, '
                        'aggregation, format, compression, on_poison, tenant, weight.';
        END CASE;
    END LOOP;
    IF NOT config ? 'sink_type' THEN
        RAISE EXCEPTION 'config key "sink_type" is missing' USING ERRCODE = '22023', HINT = 'Expected "kinesis".';
    END IF;
    IF NOT config ? 'stream_name' AND NOT config ? 'stream_arn' THEN
        RAISE EXCEPTION 'config key "stream_name" is missing' USING ERRCODE = '22023',
            HINT = 'Give the stream''s name, or its ARN as "stream_arn".';
    END IF;
    IF (config ? 'access_key_id') <> (config ? 'secret_access_key') THEN
        RAISE EXCEPTION 'config key "%" is missing',
            CASE WHEN config ? 'access_key_id' THEN 'secret_access_key' ELSE 'access_key_id' END
            USING ERRCODE = '22023',
                  HINT = 'access_key_id and secret_access_key go together; without both the AWS default chain applies.';
    END IF;
    IF config ? 'session_token' AND NOT config ? 'access_key_id' THEN
        RAISE EXCEPTION 'config key "session_token" needs access_key_id and secret_access_key' USING ERRCODE = '22023',
            HINT = 'Give all three, or none: the AWS default chain then applies.';
    END IF;
    IF config ? 'stream_arn' AND config ? 'stream_name'
        AND split_part(config ->> 'stream_arn', '/', 2) <> config ->> 'stream_name' THEN
        PERFORM tide.refuse_value('stream_name', config ->> 'stream_name', 'the name of the stream in stream_arn');
    END IF;
    IF config ? 'stream_arn' AND config ? 'region'
        AND split_part(config ->> 'stream_arn', ':', 4) <> config ->> 'region' THEN
        PERFORM tide.refuse_value('region', config ->> 'region', 'the region in stream_arn');
    END IF;
    IF config ? 'external_id' AND NOT config ? 'role_arn' THEN
        RAISE EXCEPTION 'config key "external_id" needs role_arn' USING ERRCODE = '22023',
            HINT = 'The external id is sent when the role is assumed.';
    END IF;
END
$$;

-- The configuration as it may be shown: secrets masked, but not a reference such
-- as ${env:NAME}, which is no secret.
CREATE FUNCTION tide.mask_config(config jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_object_agg(e.key, CASE
        WHEN e.key NOT IN ('access_key_id', 'secret_access_key', 'session_token', 'external_id') THEN e.value
        WHEN e.value #>> '{}' ~ '^\$\{(env|file):[^{}]+\}$' THEN e.value
        WHEN e.key = 'access_key_id' AND length(e.value #>> '{}') >= 12 THEN to_jsonb('****' || right(e.value #>> '{}', 4))
        ELSE '"****"'
    END), '{}')
    FROM jsonb_each(config) AS e
$$;

-- === Pipelines ===

CREATE FUNCTION tide.relay_set_outbox(name text, outbox text, consumer_group text, config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- A key given as null is a key not given.
    given CONSTANT jsonb := jsonb_strip_nulls(config);
    target int;
    standing text;
BEGIN
    PERFORM tide.check_name('pipeline', name);
    PERFORM tide.check_name('consumer group', consumer_group);
    PERFORM tide.check_config(given);
    -- The lock keeps the outbox from being dropped meanwhile; publishers take none.
    SELECT o.outbox_id INTO target FROM tide.outbox AS o
    WHERE o.name = relay_set_outbox.outbox FOR KEY SHARE;
    IF target IS NULL THEN
        RAISE EXCEPTION 'outbox % does not exist', coalesce(quote_literal(outbox), 'NULL')
            USING ERRCODE = '42704', HINT = format('SELECT tide.outbox_create(%L) creates it.', outbox);
    END IF;
    SELECT o.name INTO standing
    FROM tide.relay_position AS p JOIN tide.outbox AS o ON o.outbox_id = p.outbox_id
    WHERE p.pipeline = relay_set_outbox.name AND p.outbox_id <> target;
    IF standing IS NOT NULL THEN
        RAISE EXCEPTION 'pipeline % has a position in outbox %', quote_literal(name), quote_literal(standing)
            USING ERRCODE = '55000',
                  HINT = format('Give the pipeline of outbox %L another name, or delete this one first: SELECT tide.relay_delete(%L).', outbox, name);
    END IF;
    INSERT INTO tide.relay_pipeline AS r (name, outbox, consumer_group, config)
    VALUES (relay_set_outbox.name, relay_set_outbox.outbox, relay_set_outbox.consumer_group, given)
    ON CONFLICT ON CONSTRAINT relay_pipeline_pkey DO UPDATE
    SET outbox = excluded.outbox, consumer_group = excluded.consumer_group, config = excluded.config,
        version = nextval('tide.relay_pipeline_version'), updated_at = clock_timestamp();
END
$$;
COMMENT ON FUNCTION tide.relay_set_outbox(text, text, text, jsonb) IS
    'creates a pipeline (enabled) or changes its configuration (enabled or not, as it was)';

CREATE FUNCTION tide.relay_set_outbox(name text, outbox text, config jsonb) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT tide.relay_set_outbox(name, outbox, name, config) $$;
COMMENT ON FUNCTION tide.relay_set_outbox(text, text, jsonb) IS
    'as with four arguments; the consumer group is named like the pipeline';

CREATE FUNCTION tide.refuse_pipeline(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'pipeline % does not exist', coalesce(quote_literal(name), 'NULL') USING ERRCODE = '42704',
        HINT = 'SELECT name FROM tide.relay_list_configs() lists those of the database; others may be in the relay''s file.';
END
$$;

CREATE FUNCTION tide.relay_set_enabled(name text, enabled boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE tide.relay_pipeline AS r
    SET enabled = relay_set_enabled.enabled, version = nextval('tide.relay_pipeline_version'), updated_at = clock_timestamp()
    WHERE r.name = relay_set_enabled.name;
    IF NOT FOUND THEN
        PERFORM tide.refuse_pipeline(name);
    END IF;
END
$$;

CREATE FUNCTION tide.relay_enable(name text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT tide.relay_set_enabled(name, true) $$;
COMMENT ON FUNCTION tide.relay_enable(text) IS 'lets a pipeline run; it goes on where it stopped';

CREATE FUNCTION tide.relay_disable(name text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT tide.relay_set_enabled(name, false) $$;
COMMENT ON FUNCTION tide.relay_disable(text) IS 'stops a pipeline; its position is kept';

CREATE FUNCTION tide.relay_delete(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM tide.relay_pipeline AS r WHERE r.name = relay_delete.name;
    IF NOT FOUND THEN
        PERFORM tide.refuse_pipeline(name);
    END IF;
    PERFORM tide.forget_position(name);
END
$$;
COMMENT ON FUNCTION tide.relay_delete(text) IS
    'deletes a pipeline and forgets its position: one of the same name would deliver from the oldest message kept';

CREATE FUNCTION tide.relay_list_configs() RETURNS TABLE (
    name text, outbox text, consumer_group text, enabled boolean, config jsonb, version bigint,
    created_at timestamptz, updated_at timestamptz
)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.name, r.outbox, r.consumer_group, r.enabled, tide.mask_config(r.config), r.version, r.created_at, r.updated_at
    FROM tide.relay_pipeline AS r ORDER BY r.name
$$;
COMMENT ON FUNCTION tide.relay_list_configs() IS 'lists the pipelines of the database, secrets masked';

CREATE FUNCTION tide.relay_get_config(name text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found jsonb;
BEGIN
    SELECT to_jsonb(c) INTO found FROM tide.relay_list_configs() AS c WHERE c.name = relay_get_config.name;
    IF found IS NULL THEN
        PERFORM tide.refuse_pipeline(name);
    END IF;
    RETURN found;
END
$$;
COMMENT ON FUNCTION tide.relay_get_config(text) IS 'shows a pipeline, secrets masked';
