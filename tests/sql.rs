//! The SQL interface of publishers: what works, and what every mistake is answered
//! with; and the migrations that install it.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test says what it expects"
)]
#![cfg(feature = "demo")]

#[path = "common/database.rs"]
mod database;
#[path = "common/statements.rs"]
mod statements;

use serde_json::json;
use tidegate::postgres::schema::{self, SchemaError};

use crate::statements::{assert_refused, json_value, run, value};

// === Migration ===

#[tokio::test]
async fn migrations_run_as_a_plain_role_and_only_once() {
    let pool = database::pool(&database::empty_database().await);
    assert!(matches!(
        schema::check(&pool).await,
        Err(SchemaError::Missing)
    ));
    let first = schema::migrate(&pool).await.expect("migrated");
    assert_eq!((first.from, first.to), (None, schema::latest_version()));
    let second = schema::migrate(&pool).await.expect("nothing to do");
    assert_eq!((second.from, second.to), (Some(first.to), first.to));
    schema::check(&pool).await.expect("usable");
    assert!(
        !value::<bool>(
            &pool,
            "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
        )
        .await
    );
    let outside: i64 = value(
        &pool,
        "SELECT count(*) FROM pg_class WHERE relowner = (SELECT oid FROM pg_roles WHERE rolname = current_user) \
         AND relnamespace <> 'tide'::regnamespace AND relnamespace <> 'pg_toast'::regnamespace",
    )
    .await;
    assert_eq!(outside, 0, "everything lives in schema tide");
}

#[tokio::test]
async fn two_may_migrate_at_once() {
    let name = database::empty_database().await;
    let (one, other) = (database::pool(&name), database::pool(&name));
    let (one, other) = tokio::join!(schema::migrate(&one), schema::migrate(&other));
    let mut before = [one.expect("migrated").from, other.expect("migrated").from];
    before.sort_unstable();
    assert_eq!(before, [None, Some(schema::latest_version())]);
}

/// A migration that needs a table for itself does not keep publishers waiting behind a
/// transaction that is open.
#[tokio::test]
async fn publishers_do_not_wait_behind_a_migration_that_waits() {
    let pool = database::migrated().await;
    run(&pool, "SELECT tide.outbox_create('events')").await;
    // As it was before the last migration that changes the table.
    for statement in [
        "DELETE FROM tide.migration WHERE version >= 16",
        "DROP VIEW tide.outbox_drawn",
        "ALTER TABLE tide.outbox_message ADD CONSTRAINT outbox_message_headers_object \
         CHECK (jsonb_typeof(headers) = 'object')",
    ] {
        run(&pool, statement).await;
    }
    let publish = "SELECT tide.outbox_publish('events', '{}')";
    let mut open = pool.begin().await.unwrap();
    sqlx::query(publish).execute(&mut *open).await.unwrap();
    let migration = {
        let pool = pool.clone();
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || runtime.block_on(schema::migrate(&pool)))
    };
    let waiting = "SELECT count(*) FROM pg_locks AS l WHERE NOT l.granted \
        AND l.relation = 'tide.outbox_message'::regclass \
        AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())";
    while value::<i64>(&pool, waiting).await == 0 {
        assert!(!migration.is_finished(), "it was to wait for the table");
        tokio::task::yield_now().await;
    }
    // It may wait for the migration, which gives up; not for the open transaction.
    run(&pool, publish).await;
    assert!(!migration.is_finished(), "the transaction is open still");
    open.rollback().await.unwrap();
    let migrated = migration.await.unwrap().expect("migrated");
    assert_eq!(migrated.from, Some(15));
    schema::check(&pool).await.expect("usable");
}

#[tokio::test]
async fn an_older_schema_is_named_and_a_newer_one_not_migrated() {
    let pool = database::migrated().await;
    run(&pool, "DELETE FROM tide.migration WHERE version > 1").await;
    let error = schema::check(&pool).await.expect_err("old");
    assert!(
        matches!(error, SchemaError::Old { installed: 1, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("tidegate migrate"), "{error}");
    run(
        &pool,
        "INSERT INTO tide.migration (version, description, success, checksum, execution_time) VALUES (9999, '', true, '', 0)",
    )
    .await;
    schema::check(&pool)
        .await
        .expect("a newer schema serves older relays");
    let error = schema::migrate(&pool).await.expect_err("newer");
    assert!(
        matches!(
            error,
            SchemaError::Newer {
                installed: 9999,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_foreign_schema_is_left_alone() {
    let pool = database::pool(&database::empty_database().await);
    run(
        &pool,
        "CREATE SCHEMA tide; CREATE TABLE tide.tide_outbox_config (id int)",
    )
    .await;
    let error = schema::migrate(&pool).await.expect_err("foreign");
    assert!(
        error.to_string().contains("tide.tide_outbox_config"),
        "{error}"
    );
    run(&pool, "DROP TABLE tide.tide_outbox_config").await;
    schema::migrate(&pool)
        .await
        .expect("an empty schema of the role's own will do");
}

#[tokio::test]
async fn the_extension_is_refused() {
    let name = database::empty_database().await;
    let pool = database::pool(&name);
    // pg_tide owns schema tide in this way; plpgsql is the one extension that every
    // server has.
    let admin = sqlx::PgPool::connect(&database::server().url(&name))
        .await
        .expect("connected");
    run(
        &admin,
        "CREATE SCHEMA tide; ALTER EXTENSION plpgsql ADD SCHEMA tide",
    )
    .await;
    admin.close().await;
    let error = schema::migrate(&pool).await.expect_err("refused");
    assert!(matches!(error, SchemaError::Extension { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("belongs to the extension plpgsql"),
        "{error}"
    );
}

// === Outboxes ===

#[tokio::test]
async fn outboxes_are_created_enabled_and_dropped() {
    let pool = database::migrated().await;
    let id: i32 = value(&pool, "SELECT tide.outbox_create('a')").await;
    assert!(id > 0);
    assert_refused(
        &pool,
        "SELECT tide.outbox_create('a')",
        "42710",
        &["'a' already exists", "if_not_exists"],
    )
    .await;
    assert!(!value::<bool>(&pool, "SELECT tide.outbox_create_if_not_exists('a')").await);
    assert!(value::<bool>(&pool, "SELECT tide.outbox_create_if_not_exists('b', 48)").await);
    assert_eq!(
        value::<i32>(
            &pool,
            "SELECT retention_hours FROM tide.outbox WHERE name = 'b'"
        )
        .await,
        48
    );
    for name in ["''", "NULL", "repeat('x', 129)", "E'a\\nb'"] {
        let create = format!("SELECT tide.outbox_create({name})");
        assert_refused(
            &pool,
            &create,
            "22023",
            &["outbox name", "1 to 128 characters"],
        )
        .await;
    }
    assert_refused(
        &pool,
        "SELECT tide.outbox_create('c', 0)",
        "22023",
        &["retention_hours 0", "at least 1"],
    )
    .await;

    run(&pool, "SELECT tide.outbox_disable('a')").await;
    assert_refused(
        &pool,
        "SELECT tide.outbox_publish('a', '{}')",
        "55000",
        &["outbox 'a' is disabled", "tide.outbox_enable('a')"],
    )
    .await;
    assert_refused(
        &pool,
        "SELECT tide.outbox_publish_many('a', '{}')",
        "55000",
        &["outbox 'a' is disabled"],
    )
    .await;
    run(
        &pool,
        "SELECT tide.outbox_enable('a'); SELECT tide.outbox_publish('a', '{}')",
    )
    .await;
    for function in [
        "outbox_enable",
        "outbox_disable",
        "outbox_drop",
        "outbox_status",
    ] {
        let call = format!("SELECT tide.{function}('nosuch')");
        assert_refused(&pool, &call, "42704", &["outbox 'nosuch' does not exist"]).await;
    }
    assert!(!value::<bool>(&pool, "SELECT tide.outbox_drop('nosuch', true)").await);
    assert!(value::<bool>(&pool, "SELECT tide.outbox_drop('a')").await);
    assert_eq!(
        value::<i64>(&pool, "SELECT count(*) FROM tide.outbox_message").await,
        0
    );
    assert_refused(
        &pool,
        "SELECT tide.outbox_publish('a', '{}')",
        "42704",
        &["outbox_create('a')"],
    )
    .await;
}

#[tokio::test]
async fn an_outbox_that_is_read_is_not_dropped() {
    let pool = database::migrated().await;
    run(
        &pool,
        r#"SELECT tide.outbox_create('a'); SELECT tide.relay_set_outbox('p', 'a', '{"sink_type":"kinesis","stream_name":"s"}')"#,
    )
    .await;
    assert_refused(
        &pool,
        "SELECT tide.outbox_drop('a')",
        "55006",
        &["enabled pipeline 'p'", "tide.relay_disable('p')"],
    )
    .await;
    run(
        &pool,
        "SELECT tide.relay_disable('p');
        INSERT INTO tide.relay_lease VALUES ('p', 'node', 4, clock_timestamp() + interval '1 hour');
        INSERT INTO tide.relay_position (pipeline, outbox_id, epoch, base, last_number, open_windows, settled_id)
        SELECT 'p', outbox_id, 4, '9:9:', 7, '[{\"number\":8,\"snapshot\":\"9:10:\"},{\"number\":11,\"snapshot\":\"9:11:\"}]', 3
        FROM tide.outbox",
    )
    .await;
    assert_refused(
        &pool,
        "SELECT tide.outbox_drop('a')",
        "55006",
        &["'p', which a relay is running"],
    )
    .await;
    run(
        &pool,
        "UPDATE tide.relay_lease SET expires_at = clock_timestamp(); SELECT tide.outbox_drop('a')",
    )
    .await;
    // The pipeline begins anew, under an epoch and window numbers not used before.
    let state: String = value(
        &pool,
        "SELECT format('%s %s %s %s %s %s %s', p.outbox_id IS NULL, p.base, p.last_number, p.open_windows, p.settled_id, p.epoch, l.epoch)
        FROM tide.relay_position p JOIN tide.relay_lease l USING (pipeline)",
    )
    .await;
    assert_eq!(state, "t 1:1: 11 [] 0 5 5");
}

// === Publishing ===

#[tokio::test]
async fn a_message_is_stored_as_published() {
    let pool = database::migrated().await;
    run(&pool, "SELECT tide.outbox_create('a')").await;
    let first: i64 = value(&pool, r#"SELECT tide.outbox_publish('a', '{"n": 1}')"#).await;
    let second: i64 = value(
        &pool,
        r#"SELECT tide.outbox_publish('a', '[2]', headers => '{"h": "x"}', dedup_key => 'order-2')"#,
    )
    .await;
    let third: i64 = value(&pool, "SELECT tide.outbox_publish('a', 'null', NULL, NULL)").await;
    assert!(first < second && second < third);
    let stored = json_value(
        &pool,
        "SELECT jsonb_agg(jsonb_build_array(payload, headers, dedup_key) ORDER BY id) FROM tide.outbox_message",
    )
    .await;
    assert_eq!(
        stored,
        json!([[{"n": 1}, {}, null], [[2], {"h": "x"}, "order-2"], [null, {}, null]])
    );
}

#[tokio::test]
async fn a_row_carries_its_top_level_transaction() {
    let pool = database::migrated().await;
    run(&pool, "SELECT tide.outbox_create('a')").await;
    run(
        &pool,
        "BEGIN; SELECT tide.outbox_publish('a', '1'); SAVEPOINT s; SELECT tide.outbox_publish('a', '2'); RELEASE s;
        SAVEPOINT t; SELECT tide.outbox_publish('a', '3'); ROLLBACK TO t; COMMIT",
    )
    .await;
    let (rows, transactions): (i64, i64) =
        sqlx::query_as("SELECT count(*), count(DISTINCT xact) FROM tide.outbox_message")
            .fetch_one(&pool)
            .await
            .expect("counted");
    assert_eq!((rows, transactions), (2, 1));
}

#[tokio::test]
async fn mistakes_in_publishing_are_named() {
    let pool = database::migrated().await;
    run(&pool, "SELECT tide.outbox_create('a')").await;
    let cases = [
        (
            "tide.outbox_publish('b', '{}')",
            "42704",
            &["outbox 'b' does not exist", "outbox_create('b')"][..],
        ),
        (
            "tide.outbox_publish('', '{}')",
            "22023",
            &["outbox name ''"],
        ),
        (
            "tide.outbox_publish(NULL, '{}')",
            "22023",
            &["outbox name NULL"],
        ),
        (
            "tide.outbox_publish('a', NULL)",
            "22004",
            &["payload is NULL"],
        ),
        (
            "tide.outbox_publish('a', '{}', '[1]')",
            "22023",
            &["headers must be a JSON object, not a JSON array"],
        ),
        (
            "tide.outbox_publish('a', '{}', '{}', '')",
            "22023",
            &["dedup_key is empty"],
        ),
        (
            "tide.outbox_publish_many('b', '{}')",
            "42704",
            &["outbox 'b' does not exist"],
        ),
        (
            "tide.outbox_publish_many('a', NULL)",
            "22004",
            &["payloads is NULL"],
        ),
        (
            "tide.outbox_publish_many('a', '{1,2}', '{\"{}\"}', NULL)",
            "22023",
            &[
                "payloads has 2 elements, headers 1, dedup_keys NULL",
                "same length",
            ],
        ),
        (
            "tide.outbox_publish_many('a', '{1,2}', NULL, '{a,b,c}')",
            "22023",
            &["dedup_keys 3"],
        ),
        (
            "tide.outbox_publish_many('a', '{1,NULL}')",
            "22004",
            &["payload of message 2 is NULL"],
        ),
        (
            "tide.outbox_publish_many('a', '{1,2}', '{1,NULL}')",
            "22023",
            &["headers of message 1 must be a JSON object"],
        ),
        (
            "tide.outbox_publish_many('a', '{1,2}', NULL, '{a,\"\"}')",
            "22023",
            &["dedup_key of message 2 is empty"],
        ),
    ];
    for (call, code, words) in cases {
        assert_refused(&pool, &format!("SELECT {call}"), code, words).await;
    }
    assert_eq!(
        value::<i64>(&pool, "SELECT count(*) FROM tide.outbox_message").await,
        0
    );
}

#[tokio::test]
async fn many_messages_get_their_ids_in_array_order() {
    let pool = database::migrated().await;
    run(&pool, "SELECT tide.outbox_create('a')").await;
    let ids: Vec<i64> = value(
        &pool,
        "SELECT tide.outbox_publish_many('a', array_agg(to_jsonb(n) ORDER BY n),
            array_agg(jsonb_build_object('n', n) ORDER BY n), array_agg('k' || n ORDER BY n))
        FROM generate_series(1, 5000) AS n",
    )
    .await;
    assert_eq!(ids.len(), 5000);
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    let in_order: bool = value(
        &pool,
        "SELECT bool_and(payload::int = place AND dedup_key = 'k' || place AND headers ->> 'n' = place::text)
        FROM (SELECT *, row_number() OVER (ORDER BY id) AS place FROM tide.outbox_message) AS m",
    )
    .await;
    assert!(in_order);
    let plain: Vec<i64> = value(&pool, "SELECT tide.outbox_publish_many('a', '{1,2}')").await;
    assert_eq!(plain.len(), 2);
    let none: Vec<i64> = value(
        &pool,
        "SELECT tide.outbox_publish_many('a', '{}', '{}', '{}')",
    )
    .await;
    assert!(none.is_empty());
}

#[tokio::test]
async fn publishing_takes_no_lock_that_another_publisher_waits_for() {
    let pool = database::migrated().await;
    run(&pool, "SELECT tide.outbox_create('a')").await;
    let mut open = pool.begin().await.expect("begun");
    sqlx::query("SELECT tide.outbox_publish('a', '1')")
        .execute(&mut *open)
        .await
        .expect("published");
    let strong: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT l.locktype || ' ' || l.mode FROM pg_locks l WHERE l.pid = pg_backend_pid()
        AND l.mode NOT IN ('AccessShareLock', 'RowExclusiveLock') AND l.locktype NOT IN ('virtualxid', 'transactionid')",
    )
    .fetch_all(&mut *open)
    .await
    .expect("locks");
    assert_eq!(strong, Vec::<String>::new());
    let mut other = pool.acquire().await.expect("connected");
    sqlx::raw_sql("SET lock_timeout = '2s'; SELECT tide.outbox_publish('a', '2')")
        .execute(&mut *other)
        .await
        .expect("not blocked");
    open.rollback().await.expect("rolled back");
}
