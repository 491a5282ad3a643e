-- What the four roles may do. Applied by every `tidegate migrate` after the
-- migrations, so it always speaks of the schema as it is now: a migration that adds
-- a table or function adds a line here (tests/sql_roles.rs finds what has none).
--
-- Whatever a role needs is said by name. A function that is called "as owner" is
-- SECURITY DEFINER with a pinned search path: its callers have no right to the
-- tables behind it. All others run with their caller's rights.

CREATE OR REPLACE FUNCTION tide.role_rights() RETURNS TABLE (role text, privileges text, object text, columns text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    VALUES
    -- === Whoever publishes: nothing of an outbox until it is granted ===
    ('tide_publisher', 'USAGE', 'schema', NULL),
    ('tide_publisher', 'SELECT', 'outbox_publishable', NULL),
    ('tide_publisher', 'INSERT', 'outbox_entry', 'outbox_id dedup_key payload headers'),
    ('tide_publisher', 'SELECT', 'outbox_entry', 'id'),
    ('tide_publisher', 'EXECUTE', 'outbox_publish()', NULL),
    ('tide_publisher', 'EXECUTE', 'outbox_publish_many()', NULL),
    ('tide_publisher', 'EXECUTE', 'refuse_publish()', NULL),
    ('tide_publisher', 'EXECUTE', 'check_message()', NULL),
    ('tide_publisher', 'EXECUTE', 'check_name()', NULL),

    -- === The relay: what its statements do ===
    ('tide_relay', 'USAGE', 'schema', NULL),
    ('tide_relay', 'SELECT', 'migration', NULL),
    ('tide_relay', 'SELECT', 'outbox', NULL),
    -- To lock a row one must be allowed to write a column; this one decides nothing.
    ('tide_relay', 'UPDATE', 'outbox', 'created_at'),
    ('tide_relay', 'SELECT DELETE', 'outbox_message', NULL),
    ('tide_relay', 'SELECT', 'outbox_reader', NULL),
    ('tide_relay', 'SELECT', 'outbox_drawn', NULL),
    ('tide_relay', 'SELECT INSERT UPDATE', 'outbox_retention', NULL),
    ('tide_relay', 'SELECT INSERT UPDATE', 'relay_retention_turn', NULL),
    ('tide_relay', 'SELECT', 'relay_pipeline', NULL),
    ('tide_relay', 'SELECT', 'relay_pause', NULL),
    ('tide_relay', 'SELECT INSERT UPDATE', 'relay_lease', NULL),
    ('tide_relay', 'SELECT INSERT UPDATE', 'relay_position', NULL),
    ('tide_relay', 'SELECT INSERT UPDATE DELETE', 'relay_pipeline_state', NULL),
    ('tide_relay', 'SELECT INSERT', 'relay_server_life', NULL),
    ('tide_relay', 'SELECT INSERT UPDATE', 'relay_database', NULL),
    ('tide_relay', 'SELECT INSERT UPDATE', 'relay_dead_letter', NULL),
    ('tide_relay', 'SELECT UPDATE', 'relay_replay', NULL),
    ('tide_relay', 'EXECUTE', 'relay_is_here()', NULL),
    ('tide_relay', 'EXECUTE', 'relay_this_database()', NULL),
    ('tide_relay', 'EXECUTE', 'outbox_unseen()', NULL),
    ('tide_relay', 'EXECUTE', 'outbox_oldest_kept()', NULL),

    -- === Whoever looks: neither contents of messages nor secrets ===
    ('tide_reader tide_operator', 'USAGE', 'schema', NULL),
    ('tide_reader tide_operator', 'SELECT', 'migration', NULL),
    ('tide_reader tide_operator', 'SELECT', 'outbox', NULL),
    ('tide_reader tide_operator', 'SELECT', 'outbox_message', 'outbox_id xact id created_at'),
    ('tide_reader tide_operator', 'SELECT', 'outbox_reader', NULL),
    ('tide_reader tide_operator', 'SELECT', 'outbox_retention', NULL),
    ('tide_reader tide_operator', 'SELECT', 'outbox_lag', NULL),
    ('tide_reader tide_operator', 'SELECT', 'outbox_publisher', NULL),
    ('tide_reader tide_operator', 'SELECT', 'relay_status', NULL),
    ('tide_reader tide_operator', 'SELECT', 'relay_pipeline',
        'name outbox consumer_group enabled version created_at updated_at'),
    ('tide_reader tide_operator', 'SELECT', 'relay_pause', NULL),
    ('tide_reader tide_operator', 'SELECT', 'relay_lease', NULL),
    ('tide_reader tide_operator', 'SELECT', 'relay_position', NULL),
    ('tide_reader tide_operator', 'SELECT', 'relay_pipeline_state', NULL),
    ('tide_reader tide_operator', 'SELECT', 'relay_replay', NULL),
    ('tide_reader tide_operator', 'SELECT', 'relay_retention_turn', NULL),
    ('tide_reader tide_operator', 'SELECT', 'relay_server_life', NULL),
    ('tide_reader tide_operator', 'SELECT', 'relay_database', NULL),
    -- Not payload, headers, keys and message: these are of the publishers.
    ('tide_reader', 'SELECT', 'relay_dead_letter',
        'letter_id pipeline outbox_id row_id window_number created_at reason first_at last_at attempts state blocks_key bytes'),
    ('tide_reader tide_operator', 'EXECUTE', 'outbox_status()', NULL),
    ('tide_reader tide_operator', 'EXECUTE', 'outbox_retention_status()', NULL),
    ('tide_reader tide_operator', 'EXECUTE', 'outbox_pending()', NULL),
    ('tide_reader tide_operator', 'EXECUTE', 'outbox_unseen()', NULL),
    ('tide_reader tide_operator', 'EXECUTE', 'outbox_held()', NULL),
    ('tide_reader tide_operator', 'EXECUTE', 'outbox_oldest_kept()', NULL),
    ('tide_reader tide_operator', 'EXECUTE', 'pauses_of()', NULL),
    ('tide_reader tide_operator', 'EXECUTE', 'relay_is_here()', NULL),
    ('tide_reader tide_operator', 'EXECUTE as owner', 'relay_list_configs()', NULL),
    ('tide_reader tide_operator', 'EXECUTE as owner', 'relay_get_config()', NULL),
    ('tide_reader tide_operator', 'EXECUTE as owner', 'relay_pauses()', NULL),

    -- === Operators: they decide through functions, and write no table ===
    -- What was not delivered is theirs to judge, so they read it.
    ('tide_operator', 'SELECT', 'relay_dead_letter', NULL),
    ('tide_operator', 'EXECUTE as owner', 'outbox_create()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'outbox_create_if_not_exists()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'outbox_drop()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'outbox_enable()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'outbox_disable()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'outbox_set_retention()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'outbox_grant_publish()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'outbox_revoke_publish()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'relay_set_outbox()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'relay_enable()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'relay_disable()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'relay_delete()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'relay_forget()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'relay_pause()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'relay_resume()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'relay_accept_removed()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'relay_dlq_list()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'relay_dlq_retry()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'relay_dlq_retry_all()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'relay_dlq_discard()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'relay_replay_plan()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'relay_replay()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'relay_replay_cancel()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'relay_rewind()', NULL),
    ('tide_operator', 'EXECUTE as owner', 'relay_rebase()', NULL),

    -- === The owner's alone: what the functions above are made of ===
    (NULL, NULL, 'outbox_grant', NULL),
    (NULL, NULL, 'relay_pipeline_version', NULL),
    (NULL, NULL, 'outbox_set_enabled()', NULL),
    (NULL, NULL, 'relay_set_enabled()', NULL),
    (NULL, NULL, 'let_publish()', NULL),
    (NULL, NULL, 'can_publish()', NULL),
    (NULL, NULL, 'role_named()', NULL),
    (NULL, NULL, 'role_rights()', NULL),
    (NULL, NULL, 'grant_roles()', NULL),
    (NULL, NULL, 'check_retention()', NULL),
    (NULL, NULL, 'check_template()', NULL),
    (NULL, NULL, 'check_integer()', NULL),
    (NULL, NULL, 'check_choice()', NULL),
    (NULL, NULL, 'check_pattern()', NULL),
    (NULL, NULL, 'check_rate_limit()', NULL),
    (NULL, NULL, 'check_on_missing()', NULL),
    (NULL, NULL, 'check_config()', NULL),
    (NULL, NULL, 'check_pause()', NULL),
    (NULL, NULL, 'mask_config()', NULL),
    (NULL, NULL, 'refuse_value()', NULL),
    (NULL, NULL, 'refuse_pipeline()', NULL),
    (NULL, NULL, 'knows_pipeline()', NULL),
    (NULL, NULL, 'forget_position()', NULL),
    (NULL, NULL, 'standing_position()', NULL),
    (NULL, NULL, 'lock_letter()', NULL),
    (NULL, NULL, 'release_key()', NULL),
    (NULL, NULL, 'snapshot_covers()', NULL),
    (NULL, NULL, 'position_before_removed()', NULL),
    (NULL, NULL, 'rebase_messages()', NULL)
$$;
COMMENT ON FUNCTION tide.role_rights() IS
    'what tide_publisher, tide_relay, tide_operator and tide_reader may do in this schema; nobody else but the owner calls the other functions';

-- Makes the roles, if the current role may, and gives them exactly their rights;
-- touches nothing that is as it should be. Gives the statements that somebody else
-- must run first, and none if all is done.
CREATE OR REPLACE FUNCTION tide.grant_roles() RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names CONSTANT text[] := '{tide_publisher,tide_relay,tide_operator,tide_reader}';
    one text;
    is_granting boolean;
BEGIN
    FOREACH one IN ARRAY names LOOP
        CONTINUE WHEN to_regrole(one) IS NOT NULL;
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', one);
        EXCEPTION
            -- Roles are of the server: another database's migration may have been
            -- a moment faster.
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN RETURN NEXT format('CREATE ROLE %I NOLOGIN', one);
        END;
    END LOOP;

    -- Operators' functions run as their owner, everything else does not.
    FOR one IN
        SELECT format('ALTER FUNCTION %s SECURITY %s SET search_path = pg_catalog, pg_temp', p.oid::regprocedure,
            CASE WHEN w.as_owner THEN 'DEFINER' ELSE 'INVOKER' END)
        FROM pg_proc AS p
        CROSS JOIN LATERAL (
            SELECT EXISTS (
                SELECT FROM tide.role_rights() AS r
                WHERE r.object = p.proname || '()' AND r.privileges = 'EXECUTE as owner') AS as_owner
        ) AS w
        WHERE p.pronamespace = 'tide'::regnamespace
            AND (w.as_owner <> p.prosecdef
                OR w.as_owner AND 'search_path=pg_catalog, pg_temp' <> ALL (coalesce(p.proconfig, '{}')))
        ORDER BY p.oid
    LOOP
        EXECUTE one;
    END LOOP;

    -- Rights as they are and as they should be, each as the words of GRANT; PUBLIC
    -- has none. What other roles were granted is none of our business. First revoked,
    -- then looked at again and granted: what is revoked of a table goes from its
    -- columns too.
    FOREACH is_granting IN ARRAY ARRAY[false, true] LOOP FOR one IN
        WITH roles AS (
            SELECT r.oid, r.rolname::text AS name FROM pg_roles AS r WHERE r.rolname = ANY (names)
        ), objects AS (
            SELECT 'schema' AS object, NULL AS part, 'SCHEMA tide' AS named, n.nspacl AS acl
            FROM pg_namespace AS n WHERE n.nspname = 'tide'
            UNION ALL
            SELECT c.relname::text, NULL, format('tide.%I', c.relname), c.relacl
            FROM pg_class AS c WHERE c.relnamespace = 'tide'::regnamespace AND c.relkind IN ('r', 'v', 'p', 'm')
            UNION ALL
            SELECT c.relname::text, a.attname::text, format('tide.%I', c.relname), a.attacl
            FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
            WHERE c.relnamespace = 'tide'::regnamespace AND c.relkind IN ('r', 'v', 'p', 'm')
                AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL
            SELECT p.proname || '()', NULL, 'FUNCTION ' || p.oid::regprocedure,
                coalesce(p.proacl, acldefault('f', p.proowner))
            FROM pg_proc AS p WHERE p.pronamespace = 'tide'::regnamespace
        ), wanted AS (
            SELECT DISTINCT o.named, privilege.name AS privilege, wanted_part.name AS part, roles.name AS role
            FROM tide.role_rights() AS r
            CROSS JOIN LATERAL unnest(string_to_array(replace(r.privileges, ' as owner', ''), ' ')) AS privilege (name)
            CROSS JOIN LATERAL unnest(string_to_array(r.role, ' ')) AS holder (name)
            JOIN roles ON roles.name = holder.name
            LEFT JOIN LATERAL unnest(string_to_array(r.columns, ' ')) AS wanted_part (name) ON true
            JOIN objects AS o ON o.object = r.object AND o.part IS NOT DISTINCT FROM wanted_part.name
        ), held AS (
            SELECT o.named, a.privilege_type AS privilege, o.part, coalesce(roles.name, 'PUBLIC') AS role
            FROM objects AS o CROSS JOIN LATERAL aclexplode(o.acl) AS a
            LEFT JOIN roles ON roles.oid = a.grantee
            WHERE roles.oid IS NOT NULL OR a.grantee = 0 AND o.object LIKE '%()'
        )
        SELECT CASE WHEN held.named IS NULL
            THEN format('GRANT %s%s ON %s TO %s', w.privilege, coalesce(' (' || quote_ident(w.part) || ')', ''), w.named, w.role)
            ELSE format('REVOKE %s%s ON %s FROM %s', held.privilege, coalesce(' (' || quote_ident(held.part) || ')', ''), held.named, held.role) END
        FROM wanted AS w
        FULL JOIN held ON held.named = w.named AND held.privilege = w.privilege AND held.role = w.role
            AND coalesce(held.part, '') = coalesce(w.part, '')
        WHERE CASE WHEN is_granting THEN held.named IS NULL ELSE w.named IS NULL END
    LOOP
        EXECUTE one;
    END LOOP; END LOOP;
END
$$;
COMMENT ON FUNCTION tide.grant_roles() IS
    'makes the roles tide_publisher, tide_relay, tide_operator and tide_reader, if it may, and gives them their rights; gives the statements that somebody else must run first';
