-- Who may publish to which outbox. (What the roles tide_publisher, tide_relay,
-- tide_operator and tide_reader may do is src/postgres/roles.sql: it is applied
-- anew by every `tidegate migrate`, so that it always fits the schema.)
--
-- Publishing runs with the caller's rights, through two views that ask whether the
-- caller may. Not SECURITY DEFINER: inside such a function the caller is unknown
-- (after SET ROLE, or in a function that runs as somebody else, session_user is
-- the wrong one), while a view reads its tables with its owner's rights and still
-- knows the caller. It also costs a privilege check and nothing else.

-- A role that publishes to an outbox. regrole: follows a renamed role, and a dump
-- carries the role's name. A role that is dropped leaves a row that lets nobody in.
--
-- Asked in every publish of a role that is not the owner: pages are kept nearly empty
-- so that reading them all looks dear from a hundred rows on, and the index is taken.
CREATE TABLE tide.outbox_grant (
    outbox_id int NOT NULL REFERENCES tide.outbox ON DELETE CASCADE,
    grantee regrole NOT NULL,
    -- As tide.outbox has it, so that one look suffices.
    enabled boolean NOT NULL,
    granted_by text NOT NULL DEFAULT session_user,
    granted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (outbox_id, grantee)
) WITH (fillfactor = 10);
COMMENT ON TABLE tide.outbox_grant IS 'which role may publish to which outbox, written by tide.outbox_grant_publish()';

-- The outboxes that whoever asks may publish to. The right to insert into the table
-- itself, as the owner of the schema has it, is the right to publish to all.
--
-- OFFSET 0 makes the planner look up the one outbox: it would otherwise ask of all
-- grants whether they are the caller's, and keep the answers for a single row.
CREATE VIEW tide.outbox_publishable WITH (security_barrier = true) AS
SELECT o.outbox_id, o.name, o.enabled, o.retention_hours, o.created_at
FROM tide.outbox AS o
WHERE EXISTS (
        SELECT FROM (SELECT g.grantee FROM tide.outbox_grant AS g WHERE g.outbox_id = o.outbox_id OFFSET 0) AS granted
        WHERE pg_has_role(granted.grantee, 'USAGE'))
    OR has_any_column_privilege('tide.outbox_message'::regclass, 'INSERT');
COMMENT ON VIEW tide.outbox_publishable IS 'the outboxes that the current role may publish to';

-- What publishers write through. Columns that decide order and age (id, xact,
-- created_at) are not among those that can be given.
CREATE VIEW tide.outbox_entry WITH (security_barrier = true) AS
SELECT m.outbox_id, m.id, m.dedup_key, m.payload, m.headers
FROM tide.outbox_message AS m
WHERE EXISTS (
        SELECT FROM (
            SELECT g.grantee FROM tide.outbox_grant AS g WHERE g.outbox_id = m.outbox_id AND g.enabled OFFSET 0
        ) AS granted
        WHERE pg_has_role(granted.grantee, 'USAGE'))
    OR has_any_column_privilege('tide.outbox_message'::regclass, 'INSERT')
WITH CHECK OPTION;
COMMENT ON VIEW tide.outbox_entry IS
    'messages of the outboxes that the current role may publish to; tide.outbox_publish() inserts through it';

CREATE OR REPLACE FUNCTION tide.outbox_set_enabled(name text, enabled boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed int;
BEGIN
    UPDATE tide.outbox AS o SET enabled = outbox_set_enabled.enabled WHERE o.name = outbox_set_enabled.name
    RETURNING o.outbox_id INTO changed;
    IF changed IS NULL THEN
        RAISE EXCEPTION 'outbox % does not exist', coalesce(quote_literal(name), 'NULL') USING ERRCODE = '42704',
            HINT = 'SELECT name FROM tide.outbox lists the outboxes.';
    END IF;
    UPDATE tide.outbox_grant AS g SET enabled = outbox_set_enabled.enabled WHERE g.outbox_id = changed;
END
$$;

-- === Publishing ===

-- Says why an outbox takes no message. Whoever may not publish to an outbox does
-- not learn whether it exists.
CREATE OR REPLACE FUNCTION tide.refuse_publish(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tide.check_name('outbox', name);
    IF EXISTS (SELECT FROM tide.outbox_publishable AS o WHERE o.name = refuse_publish.name AND NOT o.enabled) THEN
        RAISE EXCEPTION 'outbox % is disabled', quote_literal(name)
            USING ERRCODE = '55000', HINT = format('SELECT tide.outbox_enable(%L) makes it take messages again.', name);
    END IF;
    IF NOT has_any_column_privilege('tide.outbox_message'::regclass, 'INSERT') THEN
        RAISE EXCEPTION 'role % may not publish to an outbox %', quote_literal(current_user), quote_literal(name)
            USING ERRCODE = '42501', HINT = format(
                'If there is such an outbox, SELECT tide.outbox_grant_publish(%L, %L) lets it; tide.outbox_publishable lists those it may.',
                name, current_user);
    END IF;
    RAISE EXCEPTION 'outbox % does not exist', quote_literal(name)
        USING ERRCODE = '42704', HINT = format('SELECT tide.outbox_create(%L) creates it.', name);
END
$$;

-- Operators and types are named with their schema: these two functions do not pin
-- their search path (that costs more than all the rest), and must do the same
-- whatever the caller's path is. Whoever may insert into the table does so, as ever: the
-- views cost them as much as the insert. (unnest with several arrays is syntax, and means that
-- of pg_catalog.)
CREATE OR REPLACE FUNCTION tide.outbox_publish(
    name text, payload jsonb, headers jsonb DEFAULT '{}'::jsonb, dedup_key text DEFAULT NULL
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    published bigint;
BEGIN
    IF payload IS NULL OR pg_catalog.jsonb_typeof(headers) OPERATOR(pg_catalog.<>) 'object'
        OR dedup_key OPERATOR(pg_catalog.=) '' THEN
        PERFORM tide.check_message(payload, headers, dedup_key, '');
    END IF;
    IF pg_catalog.has_table_privilege('tide.outbox_message'::pg_catalog.regclass, 'INSERT') THEN
        INSERT INTO tide.outbox_message AS m (outbox_id, dedup_key, payload, headers)
        SELECT o.outbox_id, outbox_publish.dedup_key, outbox_publish.payload, coalesce(outbox_publish.headers, '{}')
        FROM tide.outbox AS o
        WHERE o.name OPERATOR(pg_catalog.=) outbox_publish.name AND o.enabled
        RETURNING m.id INTO published;
    ELSE
        INSERT INTO tide.outbox_entry AS m (outbox_id, dedup_key, payload, headers)
        SELECT o.outbox_id, outbox_publish.dedup_key, outbox_publish.payload, coalesce(outbox_publish.headers, '{}')
        FROM tide.outbox_publishable AS o
        WHERE o.name OPERATOR(pg_catalog.=) outbox_publish.name AND o.enabled
        RETURNING m.id INTO published;
    END IF;
    IF published IS NULL THEN
        PERFORM tide.refuse_publish(name);
    END IF;
    RETURN published;
END
$$;

CREATE OR REPLACE FUNCTION tide.outbox_publish_many(
    name text, payloads jsonb[], headers jsonb[] DEFAULT NULL, dedup_keys text[] DEFAULT NULL
) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    target int;
    messages int := pg_catalog.cardinality(payloads);
    published bigint[];
BEGIN
    SELECT o.outbox_id INTO target FROM tide.outbox_publishable AS o
    WHERE o.name OPERATOR(pg_catalog.=) outbox_publish_many.name AND o.enabled;
    IF target IS NULL THEN
        PERFORM tide.refuse_publish(name);
    END IF;
    IF payloads IS NULL THEN
        RAISE EXCEPTION 'payloads is NULL' USING ERRCODE = '22004', HINT = 'Give an array of jsonb, one per message.';
    END IF;
    IF pg_catalog.cardinality(headers) OPERATOR(pg_catalog.<>) messages
        OR pg_catalog.cardinality(dedup_keys) OPERATOR(pg_catalog.<>) messages THEN
        RAISE EXCEPTION 'payloads has % elements, headers %, dedup_keys %', messages,
            coalesce(pg_catalog.cardinality(headers)::pg_catalog.text, 'NULL'),
            coalesce(pg_catalog.cardinality(dedup_keys)::pg_catalog.text, 'NULL')
            USING ERRCODE = '22023', HINT = 'Give arrays of the same length, or NULL for headers or dedup_keys.';
    END IF;
    PERFORM tide.check_message(m.payload, m.headers, m.dedup_key, pg_catalog.format(' of message %s', m.place))
    FROM unnest(payloads, outbox_publish_many.headers, dedup_keys)
        WITH ORDINALITY AS m (payload, headers, dedup_key, place)
    WHERE m.payload IS NULL OR pg_catalog.jsonb_typeof(m.headers) OPERATOR(pg_catalog.<>) 'object'
        OR m.dedup_key OPERATOR(pg_catalog.=) '';
    -- Ids are drawn after the sort, so they rise in the order of the array.
    IF pg_catalog.has_table_privilege('tide.outbox_message'::pg_catalog.regclass, 'INSERT') THEN
        WITH inserted AS (
            INSERT INTO tide.outbox_message AS t (outbox_id, dedup_key, payload, headers)
            SELECT target, m.dedup_key, m.payload, coalesce(m.headers, '{}')
            FROM unnest(payloads, outbox_publish_many.headers, dedup_keys)
                WITH ORDINALITY AS m (payload, headers, dedup_key, place)
            ORDER BY m.place
            RETURNING t.id
        )
        SELECT coalesce(pg_catalog.array_agg(i.id ORDER BY i.id), '{}') INTO published FROM inserted AS i;
        RETURN published;
    END IF;
    WITH inserted AS (
        INSERT INTO tide.outbox_entry AS t (outbox_id, dedup_key, payload, headers)
        SELECT target, m.dedup_key, m.payload, coalesce(m.headers, '{}')
        FROM unnest(payloads, outbox_publish_many.headers, dedup_keys)
            WITH ORDINALITY AS m (payload, headers, dedup_key, place)
        ORDER BY m.place
        RETURNING t.id
    )
    SELECT coalesce(pg_catalog.array_agg(i.id ORDER BY i.id), '{}') INTO published FROM inserted AS i;
    RETURN published;
END
$$;

-- === Granting ===

-- Lets a role call the functions that publish; on which outboxes is another matter.
CREATE FUNCTION tide.let_publish(grantee oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    named CONSTANT text := quote_ident(pg_get_userbyid(grantee));
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA tide TO %s', named);
    EXECUTE format('GRANT SELECT ON tide.outbox_publishable TO %s', named);
    EXECUTE format('GRANT SELECT (id), INSERT (outbox_id, dedup_key, payload, headers) ON tide.outbox_entry TO %s', named);
    EXECUTE format(
        'GRANT EXECUTE ON FUNCTION tide.outbox_publish, tide.outbox_publish_many, tide.refuse_publish, '
        'tide.check_message, tide.check_name TO %s', named);
END
$$;

-- Whether a role may call them, with what it inherits.
CREATE FUNCTION tide.can_publish(grantee oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT has_schema_privilege(grantee, 'tide', 'USAGE')
        AND has_table_privilege(grantee, 'tide.outbox_publishable', 'SELECT')
        AND has_column_privilege(grantee, 'tide.outbox_entry', 'payload', 'INSERT')
        AND bool_and(has_function_privilege(grantee, p.oid, 'EXECUTE'))
    FROM pg_proc AS p
    WHERE p.pronamespace = 'tide'::regnamespace
        AND p.proname IN ('outbox_publish', 'outbox_publish_many', 'refuse_publish', 'check_message', 'check_name')
$$;

-- The id of a role, by its name as it is (no folding to lower case).
CREATE FUNCTION tide.role_named(role text) RETURNS oid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found oid;
BEGIN
    SELECT r.oid INTO found FROM pg_roles AS r WHERE r.rolname = role_named.role;
    IF found IS NULL THEN
        RAISE EXCEPTION 'role % does not exist', coalesce(quote_literal(role), 'NULL') USING ERRCODE = '42704',
            HINT = 'SELECT rolname FROM pg_roles lists the roles; upper and lower case matter.';
    END IF;
    RETURN found;
END
$$;

CREATE FUNCTION tide.outbox_grant_publish(outbox text, role text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target int;
    is_enabled boolean;
    granted CONSTANT oid := tide.role_named(role);
    is_new boolean;
BEGIN
    -- Locked against tide.outbox_disable(), so that both have it the same.
    SELECT o.outbox_id, o.enabled INTO target, is_enabled FROM tide.outbox AS o
    WHERE o.name = outbox_grant_publish.outbox FOR SHARE;
    IF target IS NULL THEN
        RAISE EXCEPTION 'outbox % does not exist', coalesce(quote_literal(outbox), 'NULL') USING ERRCODE = '42704',
            HINT = 'SELECT name FROM tide.outbox lists the outboxes.';
    END IF;
    INSERT INTO tide.outbox_grant (outbox_id, grantee, enabled) VALUES (target, granted, is_enabled) ON CONFLICT DO NOTHING;
    is_new := FOUND;
    -- Through tide_publisher, if that can be: hundreds of roles in one access list
    -- would not fit into the row of the catalog.
    IF NOT tide.can_publish(granted) AND to_regrole('tide_publisher') IS NOT NULL THEN
        BEGIN
            EXECUTE format('GRANT tide_publisher TO %I', role);
        EXCEPTION WHEN insufficient_privilege OR invalid_grant_operation THEN
            NULL;
        END;
    END IF;
    IF NOT tide.can_publish(granted) THEN
        PERFORM tide.let_publish(granted);
    END IF;
    RETURN is_new;
END
$$;
COMMENT ON FUNCTION tide.outbox_grant_publish(text, text) IS
    'lets a role publish to an outbox, with all roles that inherit from it; gives whether it was not granted before';

CREATE FUNCTION tide.outbox_revoke_publish(outbox text, role text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target int;
    revoked CONSTANT oid := tide.role_named(role);
    was_granted boolean;
BEGIN
    SELECT o.outbox_id INTO target FROM tide.outbox AS o WHERE o.name = outbox_revoke_publish.outbox;
    IF target IS NULL THEN
        RAISE EXCEPTION 'outbox % does not exist', coalesce(quote_literal(outbox), 'NULL') USING ERRCODE = '42704',
            HINT = 'SELECT name FROM tide.outbox lists the outboxes.';
    END IF;
    DELETE FROM tide.outbox_grant AS g WHERE g.outbox_id = target AND g.grantee = revoked::regrole;
    was_granted := FOUND;
    -- What let_publish() gave goes with the last outbox. A membership stays: it is
    -- of the whole server, other databases may go by it, and it opens no outbox.
    -- Whoever may insert into the table itself was granted that by hand, and keeps it.
    IF role NOT IN ('tide_publisher', 'tide_relay', 'tide_operator', 'tide_reader')
        AND NOT has_any_column_privilege(revoked, 'tide.outbox_message'::regclass, 'INSERT')
        AND NOT EXISTS (SELECT FROM tide.outbox_grant AS g WHERE g.grantee = revoked::regrole) THEN
        EXECUTE format('REVOKE SELECT ON tide.outbox_publishable FROM %I', role);
        EXECUTE format('REVOKE SELECT (id), INSERT (outbox_id, dedup_key, payload, headers) ON tide.outbox_entry FROM %I', role);
        EXECUTE format(
            'REVOKE EXECUTE ON FUNCTION tide.outbox_publish, tide.outbox_publish_many, tide.refuse_publish, '
            'tide.check_message, tide.check_name FROM %I', role);
        -- The schema stays open to whoever has other rights in it.
        IF NOT EXISTS (
            SELECT FROM (
                SELECT p.proacl AS acl FROM pg_proc AS p WHERE p.pronamespace = 'tide'::regnamespace
                UNION ALL
                SELECT c.relacl FROM pg_class AS c WHERE c.relnamespace = 'tide'::regnamespace
                UNION ALL
                SELECT t.attacl FROM pg_attribute AS t JOIN pg_class AS c ON c.oid = t.attrelid
                WHERE c.relnamespace = 'tide'::regnamespace
            ) AS held CROSS JOIN LATERAL aclexplode(held.acl) AS a
            WHERE a.grantee = revoked
        ) THEN
            EXECUTE format('REVOKE USAGE ON SCHEMA tide FROM %I', role);
        END IF;
    END IF;
    RETURN was_granted;
END
$$;
COMMENT ON FUNCTION tide.outbox_revoke_publish(text, text) IS
    'ends what tide.outbox_grant_publish() gave; gives whether it had been granted. What a role inherits it keeps';

CREATE VIEW tide.outbox_publisher AS
SELECT o.name AS outbox, r.rolname::text AS role, g.granted_by, g.granted_at
FROM tide.outbox_grant AS g
JOIN tide.outbox AS o ON o.outbox_id = g.outbox_id
JOIN pg_catalog.pg_roles AS r ON r.oid = g.grantee;
COMMENT ON VIEW tide.outbox_publisher IS 'which role was granted to publish to which outbox';

-- === Roles that were granted rights by hand ===

-- Until here everybody who might use the schema could execute every function, all
-- with their own rights. That ends now. Whoever holds rights in the schema keeps
-- the functions that run with those; not what from now on runs with the owner's.
DO $$
DECLARE
    for_operators CONSTANT text[] := '{
        outbox_create, outbox_create_if_not_exists, outbox_drop, outbox_set_enabled, outbox_enable, outbox_disable,
        outbox_set_retention, outbox_grant_publish, outbox_revoke_publish, let_publish,
        relay_set_outbox, relay_set_enabled, relay_enable, relay_disable, relay_delete, relay_forget,
        relay_accept_removed, relay_rebase, relay_list_configs, relay_get_config,
        relay_dlq_list, relay_dlq_retry, relay_dlq_retry_all, relay_dlq_discard,
        relay_replay_plan, relay_replay, relay_replay_cancel, relay_rewind, relay_pause, relay_resume, relay_pauses}';
    owner CONSTANT oid := (SELECT n.nspowner FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'tide');
    holder record;
    one regprocedure;
BEGIN
    FOR holder IN
        SELECT DISTINCT a.grantee, pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) AS named,
            pg_catalog.has_any_column_privilege(a.grantee, 'tide.outbox_message', 'INSERT') AS publishes
        FROM (
            SELECT n.nspacl AS acl FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'tide'
            UNION ALL
            SELECT c.relacl FROM pg_catalog.pg_class AS c WHERE c.relnamespace = 'tide'::regnamespace
            UNION ALL
            SELECT t.attacl FROM pg_catalog.pg_attribute AS t
            JOIN pg_catalog.pg_class AS c ON c.oid = t.attrelid WHERE c.relnamespace = 'tide'::regnamespace
        ) AS held CROSS JOIN LATERAL pg_catalog.aclexplode(held.acl) AS a
        WHERE a.grantee <> owner AND a.grantee <> 0
    LOOP
        FOR one IN
            SELECT p.oid::regprocedure FROM pg_catalog.pg_proc AS p
            WHERE p.pronamespace = 'tide'::regnamespace AND p.proname <> ALL (for_operators)
        LOOP
            EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %s', one, holder.named);
        END LOOP;
        IF holder.publishes THEN
            PERFORM tide.let_publish(holder.grantee);
        END IF;
    END LOOP;
END
$$;
