//! Attempts to get at what a role may not have.

use crate::roles::{House, SCHEMA_OWNER, administer};
use crate::statements::{assert_refused, run, value};

/// Operators and functions that raise an error when they are called, in a schema that
/// stands first in the path, and temporary tables with the names of ours.
fn traps(schema: &str) -> String {
    format!(
        "CREATE SCHEMA {schema};
        CREATE FUNCTION {schema}.trap() RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'trapped %', current_user; END $$;
        CREATE FUNCTION {schema}.trap(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT {schema}.trap()';
        CREATE FUNCTION {schema}.trap(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT {schema}.trap()';
        CREATE FUNCTION {schema}.jsonb_typeof(jsonb) RETURNS text LANGUAGE sql AS 'SELECT {schema}.trap()::text';
        CREATE FUNCTION {schema}.cardinality(anyarray) RETURNS int LANGUAGE sql AS 'SELECT {schema}.trap()::int';
        CREATE FUNCTION {schema}.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT {schema}.trap()::text::timestamptz';
        CREATE FUNCTION {schema}.length(text) RETURNS int LANGUAGE sql AS 'SELECT {schema}.trap()::int';
        CREATE FUNCTION {schema}.format(text) RETURNS text LANGUAGE sql AS 'SELECT {schema}.trap()::text';
        CREATE OPERATOR {schema}.= (LEFTARG = text, RIGHTARG = text, FUNCTION = {schema}.trap);
        CREATE OPERATOR {schema}.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = {schema}.trap);
        CREATE OPERATOR {schema}.= (LEFTARG = int, RIGHTARG = int, FUNCTION = {schema}.trap);
        CREATE OPERATOR {schema}.<> (LEFTARG = int, RIGHTARG = int, FUNCTION = {schema}.trap);
        CREATE DOMAIN {schema}.text AS pg_catalog.text CHECK ({schema}.trap());
        CREATE DOMAIN {schema}.jsonb AS pg_catalog.jsonb CHECK ({schema}.trap());"
    )
}

const SHADOWS: &str = "
    CREATE TEMP TABLE outbox (outbox_id int, name text, enabled boolean);
    CREATE TEMP TABLE outbox_grant (outbox_id int, grantee regrole);
    CREATE TEMP TABLE relay_pause (kind text, name text, reason text);
    CREATE TEMP TABLE relay_pipeline (name text, config jsonb);
    CREATE TEMP TABLE pg_roles (oid oid, rolname text);
    CREATE TEMP TABLE pg_proc (oid oid, proname text);
    INSERT INTO pg_temp.outbox VALUES (99, 'a', true);
    INSERT INTO pg_temp.pg_roles VALUES (10, 'nobody');";

#[tokio::test]
async fn a_search_path_changes_nothing_for_functions_of_operators() {
    let house = House::new().await;
    let (login, operator) = house.user("operator", "tide_operator").await;
    run(
        &house.owner,
        &format!(
            "GRANT CREATE, TEMPORARY ON DATABASE {} TO {login}",
            house.database
        ),
    )
    .await;
    run(&house.owner, "SELECT tide.outbox_create('a')").await;
    run(&operator, &traps("evil")).await;
    let path = "SET LOCAL search_path = pg_temp, evil, pg_catalog";
    let attack = |call: &str| format!("BEGIN; {SHADOWS} {path}; SELECT {call}; COMMIT");
    // The traps do spring.
    assert_refused(
        &operator,
        &attack("'a'::pg_catalog.text = 'a'"),
        "P0001",
        &["trapped"],
    )
    .await;
    run(&operator, "ROLLBACK").await;
    let config = r#"'{"sink_type": "kinesis", "stream_name": "s"}'::pg_catalog.jsonb"#;
    let member = format!("tide.outbox_grant_publish('a', '{login}')");
    let set = format!("tide.relay_set_outbox('p', 'a', {config})");
    for call in [
        "tide.outbox_create('b')",
        "tide.outbox_disable('b')",
        "tide.outbox_drop('b')",
        member.as_str(),
        set.as_str(),
        "tide.relay_list_configs()",
        "tide.relay_get_config('p')",
        "tide.relay_pause('pipeline', 'p', 'why')",
        "tide.relay_pauses()",
        "tide.relay_resume('pipeline', 'p')",
        "tide.relay_dlq_list()",
        "tide.relay_dlq_retry_all('p')",
        "tide.outbox_status('a')",
        "tide.relay_delete('p')",
    ] {
        let sessions = house.sessions(&login);
        run(&sessions, &attack(call)).await;
        sessions.close().await;
    }
    // A role that exists in a shadow only.
    let sessions = house.sessions(&login);
    assert_refused(
        &sessions,
        &attack("tide.outbox_grant_publish('a', 'nobody')"),
        "42704",
        &["'nobody' does not exist"],
    )
    .await;
    sessions.close().await;
}

/// Publishing runs with its caller's rights; a caller with many of them may have a
/// path that a tenant can write to.
#[tokio::test]
async fn a_search_path_changes_nothing_for_whoever_publishes() {
    let house = House::new().await;
    run(&house.owner, "SELECT tide.outbox_create('a')").await;
    run(&house.owner, &traps("evil")).await;
    let login = house.login("tenant", "tide_publisher").await;
    run(
        &house.owner,
        &format!(
            "SELECT tide.outbox_grant_publish('a', '{login}');
            GRANT USAGE ON SCHEMA evil TO {login}; GRANT TEMPORARY ON DATABASE {} TO {login}",
            house.database
        ),
    )
    .await;
    for who in [SCHEMA_OWNER, login.as_str()] {
        for call in [
            "tide.outbox_publish('a', '1'::pg_catalog.jsonb, '{}'::pg_catalog.jsonb, 'k')",
            "tide.outbox_publish_many('a', ARRAY['1'::pg_catalog.jsonb], ARRAY['{}'::pg_catalog.jsonb], ARRAY['k'::pg_catalog.text])",
        ] {
            let sessions = house.sessions(who);
            let attack = format!(
                "BEGIN; {SHADOWS} SET LOCAL search_path = pg_temp, evil, pg_catalog; SELECT {call}; COMMIT"
            );
            run(&sessions, &attack).await;
            sessions.close().await;
        }
    }
    let rows: i64 = value(&house.owner, "SELECT count(*) FROM tide.outbox_message").await;
    assert_eq!(rows, 4);
}

/// One login, many tenants: what counts is the role that is set.
#[tokio::test]
async fn the_role_that_is_set_decides_and_no_other_can_be_set() {
    let house = House::new().await;
    run(
        &house.owner,
        "SELECT tide.outbox_create('one'), tide.outbox_create('two')",
    )
    .await;
    let (one, of_one) = house.user("one", "tide_publisher").await;
    let (two, _) = house.user("two", "tide_publisher").await;
    run(
        &house.owner,
        &format!("SELECT tide.outbox_grant_publish('one', '{one}'), tide.outbox_grant_publish('two', '{two}')"),
    )
    .await;
    let (login, app) = house.user("app", "").await;
    administer(&format!("ALTER ROLE {login} NOINHERIT")).await;
    administer(&format!("GRANT {one}, {two} TO {login}")).await;
    let publish = |outbox: &str| format!("SELECT tide.outbox_publish('{outbox}', '1')");
    let set = |role: &str, then: &str| format!("BEGIN; SET LOCAL ROLE {role}; {then}; COMMIT");
    run(&app, &set(&one, &publish("one"))).await;
    run(&app, &set(&two, &publish("two"))).await;
    for (role, outbox) in [(&one, "two"), (&two, "one")] {
        let sessions = house.sessions(&login);
        assert_refused(
            &sessions,
            &set(role, &publish(outbox)),
            "42501",
            &["may not publish"],
        )
        .await;
        sessions.close().await;
    }
    let sessions = house.sessions(&login);
    assert_refused(
        &sessions,
        &publish("one"),
        "42501",
        &["permission denied for schema tide"],
    )
    .await;

    for denied in [
        format!("SET ROLE {two}"),
        format!("SET ROLE {SCHEMA_OWNER}"),
        "SET ROLE tide_relay".to_owned(),
        "SET ROLE tide_operator".to_owned(),
        format!("SET SESSION AUTHORIZATION {two}"),
        format!("SELECT set_config('role', '{two}', false)"),
    ] {
        assert_refused(&of_one, &denied, "42501", &["permission denied"]).await;
    }
}

/// A function that runs as another role publishes as that role: who called it does
/// not matter, in either direction.
#[tokio::test]
async fn a_function_that_runs_as_somebody_else_publishes_as_that_one() {
    let house = House::new().await;
    run(&house.owner, "SELECT tide.outbox_create('a')").await;
    let (service, of_service) = house.user("service", "tide_publisher").await;
    let (tenant, of_tenant) = house.user("tenant", "tide_publisher").await;
    run(
        &house.owner,
        &format!(
            "GRANT CREATE ON DATABASE {} TO {service}, {tenant}",
            house.database
        ),
    )
    .await;
    run(
        &house.owner,
        &format!("SELECT tide.outbox_grant_publish('a', '{service}')"),
    )
    .await;
    for (schema, sessions) in [("of_service", &of_service), ("of_tenant", &of_tenant)] {
        run(
            sessions,
            &format!(
                "CREATE SCHEMA {schema};
                CREATE FUNCTION {schema}.publish() RETURNS bigint LANGUAGE sql SECURITY DEFINER
                SET search_path = pg_catalog AS $$ SELECT tide.outbox_publish('a', '1') $$;
                GRANT USAGE ON SCHEMA {schema} TO PUBLIC"
            ),
        )
        .await;
    }
    value::<i64>(&of_tenant, "SELECT of_service.publish()").await;
    assert_refused(
        &of_service,
        "SELECT of_tenant.publish()",
        "42501",
        &["may not publish", &tenant],
    )
    .await;
    assert_refused(
        &house.owner,
        "SELECT of_tenant.publish()",
        "42501",
        &["may not publish", &tenant],
    )
    .await;
}

/// The views behind the functions keep to the same rule.
#[tokio::test]
async fn writing_past_the_functions_gains_nothing() {
    let house = House::new().await;
    run(&house.owner, "SELECT tide.outbox_create('mine'), tide.outbox_create('theirs'), tide.outbox_create('closed')").await;
    run(&house.owner, "SELECT tide.outbox_publish('theirs', '1')").await;
    let (login, tenant) = house.user("tenant", "tide_publisher").await;
    run(
        &house.owner,
        &format!(
            "SELECT tide.outbox_grant_publish('mine', '{login}'), tide.outbox_grant_publish('closed', '{login}');
            SELECT tide.outbox_disable('closed');
            GRANT CREATE, TEMPORARY ON DATABASE {} TO {login}",
            house.database
        ),
    )
    .await;
    let id = |name: &str| {
        let owner = house.owner.clone();
        let sql = format!("SELECT outbox_id FROM tide.outbox WHERE name = '{name}'");
        async move { value::<i32>(&owner, &sql).await }
    };
    let (mine, theirs, closed) = (id("mine").await, id("theirs").await, id("closed").await);
    let insert = |outbox: i32| {
        format!(
            "INSERT INTO tide.outbox_entry (outbox_id, payload, headers) VALUES ({outbox}, '1', '{{}}')"
        )
    };
    run(&tenant, &insert(mine)).await;
    for outbox in [theirs, closed, 999] {
        assert_refused(&tenant, &insert(outbox), "44000", &["check option"]).await;
    }
    for (columns, values) in [
        (
            "outbox_id, payload, headers, id",
            format!("{mine}, '1', '{{}}', 1"),
        ),
        (
            "outbox_id, payload, headers, xact",
            format!("{mine}, '1', '{{}}', '3'"),
        ),
        (
            "outbox_id, payload, headers, created_at",
            format!("{mine}, '1', '{{}}', '2000-01-01'"),
        ),
    ] {
        let insert = format!(
            "INSERT INTO tide.outbox_entry ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values})"
        );
        let error = sqlx::raw_sql(sqlx::AssertSqlSafe(insert.clone()))
            .execute(&tenant)
            .await
            .expect_err(&insert);
        let code = error
            .as_database_error()
            .and_then(|error| error.code().map(|code| code.to_string()));
        assert!(
            matches!(code.as_deref(), Some("42501" | "42703")),
            "{insert}: {error}"
        );
    }

    // A function in the condition, cheap enough to be asked first, sees no more than
    // the result does.
    run(
        &tenant,
        "CREATE SCHEMA spy; CREATE TABLE spy.seen (what text);
        CREATE FUNCTION spy.look(what text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
        BEGIN INSERT INTO spy.seen VALUES (what); RETURN true; END $$",
    )
    .await;
    run(&tenant, "SELECT FROM tide.outbox_publishable WHERE spy.look(name); SELECT FROM tide.outbox_entry WHERE spy.look(id::text)").await;
    let seen: Vec<String> = value(
        &tenant,
        "SELECT ARRAY(SELECT what FROM spy.seen ORDER BY what COLLATE \"C\")",
    )
    .await;
    let mut visible: Vec<String> = value(
        &house.owner,
        &format!("SELECT ARRAY(SELECT id::text FROM tide.outbox_message WHERE outbox_id = {mine}) || ARRAY['closed', 'mine']"),
    )
    .await;
    visible.sort();
    assert_eq!(seen, visible);
}
