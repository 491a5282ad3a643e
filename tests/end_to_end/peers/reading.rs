//! Reading PostgreSQL.

use serde_json::json;
use sqlx::{Connection, PgConnection};
use tidegate::demo::emulator::EmulatorOptions;
use tidegate::demo::private_postgres::{PrivatePostgres, PrivatePostgresOptions};
use tokio::time::Instant;

use crate::database;
use crate::relay::program;
use crate::scenario::{PATIENCE, scenario};
use crate::world::World;

/// The ids of what has arrived, in reading order.
fn ids(world: &World) -> Vec<i64> {
    world.delivered().iter().map(|record| record.id).collect()
}

/// Publishes a row in a connection's transaction; answers its id.
async fn publish(connection: &mut PgConnection, key: &str) -> i64 {
    sqlx::query_scalar("SELECT tide.outbox_publish('events', '{}', '{}', $1)")
        .bind(key)
        .fetch_one(connection)
        .await
        .expect("published")
}

/// A migrated database on a server of its own.
async fn world_on(settings: &[(&str, &str)]) -> (PrivatePostgres, World) {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let options = PrivatePostgresOptions {
        settings: settings.iter().map(owned).collect(),
        ..PrivatePostgresOptions::default()
    };
    let server = PrivatePostgres::start(options).expect("a server");
    let url = server.create_database("app").await.expect("a database");
    let world = World::at(url, 1, EmulatorOptions::default()).await;
    let migrated = program(&world.settings(&[])).arg("migrate").output();
    assert!(migrated.expect("a migration").status.success());
    world.pipeline("events", json!({})).await;
    (server, world)
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_by_id_loses_rows_that_commit_late() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        let mut late = world.pool.begin().await.expect("begun");
        let low = publish(&mut late, "a").await;
        let high = world.publish("events", "b", json!({})).await;
        assert!(low < high);
        world.wait_until_received(1).await;
        late.commit().await.expect("committed");
        world.wait_until_received(2).await;
        assert_eq!(ids(&world), [high, low]);
        let delivered = world.delivered();
        assert!(delivered[0].seq < delivered[1].seq, "{delivered:?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_lock_stalls_unrelated_publishers() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        let mut open = world.pool.begin().await.expect("begun");
        publish(&mut open, "open").await;
        let mut other = world.pool.acquire().await.expect("connected");
        sqlx::query("SET lock_timeout = '50ms'")
            .execute(&mut *other)
            .await
            .expect("set");
        for _ in 0..50 {
            publish(&mut other, "other").await;
        }
        world.wait_until_received(50).await;
        open.rollback().await.expect("rolled back");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// PostgreSQL does not prepare a transaction that has notified: one that can be
/// prepared takes no lock for it at commit either.
#[tokio::test(flavor = "multi_thread")]
async fn notify_takes_a_global_lock_at_commit() {
    scenario(2 * PATIENCE, async {
        let (_server, world) = world_on(&[("max_prepared_transactions", "2")]).await;
        let mut connection = PgConnection::connect(&world.url).await.expect("connected");
        sqlx::raw_sql("BEGIN")
            .execute(&mut connection)
            .await
            .expect("begun");
        publish(&mut connection, "a").await;
        for statement in ["PREPARE TRANSACTION 'p'", "COMMIT PREPARED 'p'"] {
            let done = sqlx::raw_sql(statement).execute(&mut connection).await;
            done.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        let relay = world.relay().await;
        world.wait_until_received(1).await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sorting_by_transaction_id_inverts_a_key() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        world
            .sql("CREATE TABLE entity (id int PRIMARY KEY); INSERT INTO entity VALUES (1)")
            .await;
        let mut expected = Vec::new();
        let mut relay = None;
        // Both rows in one window, then each in a window of its own.
        for is_read_between in [false, true] {
            let mut early = world.pool.begin().await.expect("begun");
            let early_id: String = sqlx::query_scalar("SELECT pg_current_xact_id()::text")
                .fetch_one(&mut *early)
                .await
                .expect("an id");
            let mut first = world.pool.begin().await.expect("begun");
            let lock = "SELECT pg_current_xact_id()::text FROM entity WHERE id = 1 FOR UPDATE";
            let first_id: String = sqlx::query_scalar(lock)
                .fetch_one(&mut *first)
                .await
                .expect("locked");
            let number = |id: &String| id.parse::<u64>().expect("a number");
            assert!(number(&early_id) < number(&first_id));
            expected.push(publish(&mut first, "entity-1").await);
            first.commit().await.expect("committed");
            if is_read_between {
                world.wait_until_received(expected.len() as u64).await;
            }
            sqlx::query(lock)
                .execute(&mut *early)
                .await
                .expect("locked");
            expected.push(publish(&mut early, "entity-1").await);
            early.commit().await.expect("committed");
            if relay.is_none() {
                relay = Some(world.relay().await);
            }
            world.wait_until_received(expected.len() as u64).await;
        }
        assert_eq!(ids(&world), expected);
        assert_eq!(relay.expect("a relay").terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_holds_back_every_outbox() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let elsewhere = database::migrated().await;
        let mut transactions = Vec::new();
        for pool in [&world.pool, &elsewhere] {
            let mut open = pool.begin().await.expect("begun");
            sqlx::query("SELECT pg_current_xact_id(), pg_current_snapshot()")
                .execute(&mut *open)
                .await
                .expect("an id and a snapshot");
            transactions.push(open);
        }
        let relay = world.relay().await;
        let rows = world.publish_many("events", 500, 20, 10).await;
        let began = Instant::now();
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        eprintln!("500 rows within {:?}", began.elapsed());
        for open in transactions {
            open.rollback().await.expect("rolled back");
        }
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// A row is inserted once and never touched again on its way, so there is nothing
/// that vacuum could not remove under a held snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn skip_locked_leaves_dead_rows() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        let rows = world.publish_many("events", 500, 20, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        let counted = "SELECT count(*) FROM tide.outbox_message";
        assert_eq!(world.number(counted).await, 500);
        let locked_or_changed = "SELECT count(*) FROM tide.outbox_message WHERE xmax::text <> '0'";
        assert_eq!(world.number(locked_or_changed).await, 0);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// With `wal_level = minimal` no slot can exist and no WAL is kept for anybody.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_keeps_wal_and_allows_one_reader() {
    scenario(2 * PATIENCE, async {
        let without = [("wal_level", "minimal"), ("max_wal_senders", "0")];
        let (_server, world) = world_on(&without).await;
        // Two readers of one outbox.
        world.set_pipeline("second", "events", json!({})).await;
        let relay = world.relay().await;
        let rows = world.publish_many("events", 100, 5, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        world.wait_until_received(200).await;
        assert_eq!(
            world
                .number("SELECT count(*) FROM pg_replication_slots")
                .await,
            0
        );
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// No session of the relay listens: behind a pooler that hands a session to a new
/// client for each transaction it would hear nothing.
#[tokio::test(flavor = "multi_thread")]
async fn listen_hears_nothing_through_a_transaction_pooler() {
    scenario(2 * PATIENCE, async {
        let (server, world) = world_on(&[("log_statement", "all")]).await;
        let relay = world.relay().await;
        let rows = world.publish_many("events", 100, 5, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        assert_eq!(relay.terminate().await, 0);
        let log = server.log();
        assert!(log.contains("tide.relay_position"), "statements are logged");
        let listens = |line: &&str| {
            let line = line.to_ascii_uppercase();
            line.contains(": LISTEN ") || line.contains("PG_NOTIFY") || line.contains(": NOTIFY ")
        };
        assert_eq!(log.lines().find(listens), None);
    })
    .await;
}
