-- Tenants that are defined in the database: what the pipelines that name one may
-- have together.

-- A definition is of a name, whether a pipeline names it or not.
CREATE TABLE tide.relay_tenant (
    name text PRIMARY KEY,
    config jsonb NOT NULL,
    -- From the same sequence as the versions of pipelines: count and sum of these
    -- tell any two states of the table apart, so that relays look for changes with
    -- the statement that looks at pipelines anyway.
    version bigint NOT NULL DEFAULT nextval('tide.relay_pipeline_version'),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT relay_tenant_config_object CHECK (jsonb_typeof(config) = 'object')
);
COMMENT ON TABLE tide.relay_tenant IS 'tenants, written by tide.relay_set_tenant() and tide.relay_delete_tenant()';

CREATE FUNCTION tide.check_tenant(name text, config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    item record;
BEGIN
    -- The rule of the key "tenant" of a pipeline, or it could not be named.
    IF name IS NULL OR name !~ '^[^[:cntrl:]]{1,128}$' THEN
        RAISE EXCEPTION 'the name of the tenant is %',
            CASE WHEN name IS NULL THEN 'NULL'
                WHEN length(name) BETWEEN 1 AND 128 THEN 'not allowed'
                ELSE length(name) || ' characters long' END
            USING ERRCODE = '22023', HINT = 'Expected 1 to 128 characters, none of them a control character.';
    END IF;
    IF config IS NULL OR jsonb_typeof(config) <> 'object' THEN
        RAISE EXCEPTION 'config must be a JSON object, not %',
            coalesce('a JSON ' || jsonb_typeof(config), 'NULL')
            USING ERRCODE = '22023', HINT = 'For example {"weight": 2, "max_messages_per_second": 500, "burst": 100}.';
    END IF;
    FOR item IN SELECT e.key, e.value FROM jsonb_each(config) AS e LOOP
        CASE item.key
            WHEN 'weight' THEN
                PERFORM tide.check_integer(item.key, item.value, 1, 1000, 'an integer from 1 to 1000');
            WHEN 'max_messages_per_second' THEN
                IF jsonb_typeof(item.value) <> 'number' THEN
                    PERFORM tide.refuse_value(item.key, left(item.value::text, 100), 'a number above 0, at most 1e9');
                ELSIF (item.value::text)::numeric <= 0 OR (item.value::text)::numeric > 1e9 THEN
                    PERFORM tide.refuse_value(item.key, left(item.value::text, 100), 'a number above 0, at most 1e9');
                END IF;
            WHEN 'max_bytes_per_second' THEN
                PERFORM tide.check_integer(item.key, item.value, 1, 9223372036854775807, 'an integer of at least 1');
            WHEN 'burst' THEN
                PERFORM tide.check_integer(item.key, item.value, 1, 1000000, 'an integer from 1 to 1000000');
            WHEN 'max_in_flight_bytes' THEN
                PERFORM tide.check_integer(item.key, item.value, 65536, 1099511627776,
                    'an integer from 65536 (64 KiB) to 1099511627776');
            ELSE
                RAISE EXCEPTION 'config key "%" is not known', item.key USING ERRCODE = '22023',
                    HINT = 'Keys of a tenant are weight, max_messages_per_second, max_bytes_per_second, burst, '
                        'max_in_flight_bytes.';
        END CASE;
    END LOOP;
    IF config ? 'burst' AND NOT config ? 'max_messages_per_second' THEN
        RAISE EXCEPTION 'config key "burst" needs max_messages_per_second' USING ERRCODE = '22023',
            HINT = 'The burst is how many messages may go at once after a pause, faster than that rate.';
    END IF;
END
$$;

CREATE FUNCTION tide.relay_set_tenant(name text, config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- A key given as null is a key not given.
    given CONSTANT jsonb := jsonb_strip_nulls(config);
BEGIN
    PERFORM tide.check_tenant(name, given);
    INSERT INTO tide.relay_tenant AS t (name, config)
    VALUES (relay_set_tenant.name, given)
    ON CONFLICT ON CONSTRAINT relay_tenant_pkey DO UPDATE
    SET config = excluded.config, version = nextval('tide.relay_pipeline_version'), updated_at = clock_timestamp();
END
$$;
COMMENT ON FUNCTION tide.relay_set_tenant(text, jsonb) IS
    'defines a tenant or puts another definition in the place of its old one; relays follow within two seconds';

CREATE FUNCTION tide.relay_delete_tenant(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM tide.relay_tenant AS t WHERE t.name = relay_delete_tenant.name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'tenant % is not defined', coalesce(quote_literal(name), 'NULL') USING ERRCODE = '42704',
            HINT = 'SELECT name FROM tide.relay_list_tenants() lists those of the database; others may be in the relay''s file.';
    END IF;
END
$$;
COMMENT ON FUNCTION tide.relay_delete_tenant(text) IS
    'takes the definition of a tenant away: its pipelines go on with weight 1 and without limits';

CREATE FUNCTION tide.relay_list_tenants() RETURNS TABLE (
    name text, config jsonb, pipelines text[], version bigint, created_at timestamptz, updated_at timestamptz
)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.name, t.config, ARRAY(
        SELECT r.name FROM tide.relay_pipeline AS r
        WHERE coalesce(r.config ->> 'tenant', 'default') = t.name ORDER BY r.name),
        t.version, t.created_at, t.updated_at
    FROM tide.relay_tenant AS t ORDER BY t.name
$$;
COMMENT ON FUNCTION tide.relay_list_tenants() IS
    'lists the tenants that are defined in the database, with the pipelines of the database that belong to each';
