//! A database that is read-only, locked, or out of connections: its pipelines say
//! so and go on by themselves; those of another database notice nothing.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection, PgConnection, PgPool};
use tidegate::demo::emulator::EmulatorOptions;
use tidegate::demo::private_postgres::{PrivatePostgres, PrivatePostgresOptions};

use crate::database;
use crate::relay::{Relay, program};
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::{STREAM, World};

const MAX_CONNECTIONS: u16 = 20;

/// Publishes in the other database and waits until that is delivered.
async fn the_other_one_flows(relay: &Relay, calm: &PgPool) {
    let before = relay.pipeline("calm")["delivered_rows"].as_u64();
    let before = before.expect("a number");
    sqlx::query("SELECT tide.outbox_publish('calm', '1') FROM generate_series(1, 20)")
        .execute(calm)
        .await
        .expect("published");
    until("the other database's rows flow", PATIENCE, || {
        relay.pipeline("calm")["delivered_rows"].as_u64() == Some(before + 20)
    })
    .await;
    assert_eq!(relay.state("calm"), "running");
}

/// Whether the troubled pipeline or its database says all of these words.
fn says(relay: &Relay, words: &[&str]) -> bool {
    let status = relay.status();
    let shown = format!("{} {}", status["databases"], relay.pipeline("events"));
    words.iter().all(|word| shown.contains(word))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_condition_is_shown_and_passes_and_harms_no_other_database() {
    scenario(3 * PATIENCE, async {
        let server = PrivatePostgres::start(PrivatePostgresOptions {
            max_connections: MAX_CONNECTIONS,
            ..PrivatePostgresOptions::default()
        })
        .expect("a server");
        let url = server.create_database("app").await.expect("a database");
        let world = World::at(url.clone(), 2, EmulatorOptions::default()).await;
        let migrated = program(&world.settings(&[])).arg("migrate").output();
        assert!(migrated.expect("a migration").status.success());
        // Slow, so that there is something to deliver while the trouble lasts.
        let slow = json!({"rate_limit": {
            "enabled": true, "max_messages_per_second": 60, "burst_size": 10,
        }});
        world.pipeline("events", slow).await;
        let calm_name = database::migrated_database().await;
        let calm = database::pool(&calm_name);
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
            r#"SELECT tide.outbox_create('calm'); SELECT tide.relay_set_outbox('calm', 'calm', '{{"sink_type": "kinesis",
            "stream_name": "{STREAM}-calm", "region": "us-east-1", "partition_key": "{{dedup_key}}"}}')"#
        )))
        .execute(&calm)
        .await
        .expect("a pipeline");
        let other_stream = format!("{STREAM}-calm");
        world.emulator.create_stream(&other_stream, 1).await.expect("a stream");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tidegate.toml");
        let calm_url = database::server().url_as(database::OWNER, &calm_name);
        let text = format!(
            "[[databases]]\nname = \"troubled\"\nurl = \"{url}\"\nstatement_timeout = \"500ms\"\n\
            [[databases]]\nname = \"calm\"\nurl = \"{calm_url}\"\n"
        );
        std::fs::write(&file, text).expect("a file");
        let mut settings = world.settings(&[("TIDEGATE_CONFIG", file.to_str().expect("a path"))]);
        settings.retain(|(name, _)| name != "DATABASE_URL");
        let relay = Relay::start(&settings).await;
        for pipeline in ["events", "calm"] {
            relay.wait_for_state(pipeline, "running").await;
        }

        // Read-only, for all sessions at once.
        let mut rows = world.publish_many("events", 300, 20, 10).await;
        world.wait_until_received(20).await;
        for statement in [
            "ALTER SYSTEM SET default_transaction_read_only = on",
            "SELECT pg_reload_conf()",
        ] {
            server.administer(statement).await.expect("done");
        }
        until("read-only is shown", PATIENCE, || {
            says(&relay, &["read-only", "default_transaction_read_only"])
        })
        .await;
        the_other_one_flows(&relay, &calm).await;
        let mut admin = PgConnection::connect(&server.url("postgres")).await.expect("connected");
        sqlx::raw_sql("SET default_transaction_read_only = off").execute(&mut admin).await.expect("done");
        for statement in ["ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()"] {
            sqlx::raw_sql(statement).execute(&mut admin).await.expect("done");
        }
        world.wait_for(&rows, PATIENCE).await;

        // A lock on the positions, as a careless migration takes it.
        rows.extend(world.publish_many("events", 200, 20, 10).await);
        let mut locker = PgConnection::connect(&url).await.expect("connected");
        sqlx::raw_sql("BEGIN; LOCK TABLE tide.relay_position").execute(&mut locker).await.expect("locked");
        until("the lock is shown", PATIENCE, || says(&relay, &["55P03", "pg_locks"])).await;
        the_other_one_flows(&relay, &calm).await;
        sqlx::raw_sql("ROLLBACK").execute(&mut locker).await.expect("done");
        world.wait_for(&rows, PATIENCE).await;

        // No connection is left for the relay.
        rows.extend(world.publish_many("events", 200, 20, 10).await);
        let held = take_all_connections(&url).await;
        until("the missing connections are shown", PATIENCE, || {
            says(&relay, &["53300", "max_connections"])
        })
        .await;
        the_other_one_flows(&relay, &calm).await;
        drop(held);

        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        eprintln!("{} rows, {} sent again", rows.len(), verdict.duplicates);
        relay.wait_for_state("events", "running").await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// Ends the relay's sessions and takes their places until none is left.
async fn take_all_connections(url: &str) -> Vec<PgConnection> {
    let mut held: Vec<PgConnection> = Vec::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut full_since = None;
    loop {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{} held",
            held.len()
        );
        match PgConnection::connect(url).await {
            Ok(mut connection) => {
                let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tidegate'";
                sqlx::raw_sql(end)
                    .execute(&mut connection)
                    .await
                    .expect("ended");
                held.push(connection);
                full_since = None;
            }
            Err(_) => {
                // The relay may have got a place itself: end it again.
                if let Some(connection) = held.last_mut() {
                    let ended: Vec<bool> = sqlx::query_scalar(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tidegate'",
                    )
                    .fetch_all(connection)
                    .await
                    .expect("ended");
                    if ended.is_empty() {
                        let since = *full_since.get_or_insert_with(tokio::time::Instant::now);
                        if since.elapsed() > Duration::from_millis(100) {
                            return held;
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
