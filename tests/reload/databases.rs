//! Databases that come, go, and are reached in another way.

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::configured::{File, difference, epoch, series, take};
use crate::database;
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::{STREAM, World};

fn configuration(databases: &Value) -> Value {
    json!({
        "databases": databases,
        "admin": {"listen": "127.0.0.1:0"},
        "cluster": {"lease": "2s"},
        "limits": {"drain_grace": "2s"},
    })
}

async fn connections(pool: &PgPool, database: &str) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = $1 AND application_name = 'tidegate' AND pid <> pg_backend_pid()";
    let count = sqlx::query_scalar(sql).bind(database).fetch_one(pool).await;
    count.expect("a number")
}

/// Another database with an outbox and a pipeline of this name.
async fn another(name: &str) -> (String, String) {
    let database = database::migrated_database().await;
    let pool = database::pool(&database);
    let config = json!({"sink_type": "kinesis", "stream_name": STREAM, "region": "us-east-1"});
    sqlx::query("SELECT tide.outbox_create($1), tide.relay_set_outbox($1, $1, $2)")
        .bind(name)
        .bind(config)
        .execute(&pool)
        .await
        .expect("an outbox");
    pool.close().await;
    (
        database::server().url_as(database::OWNER, &database),
        database,
    )
}

/// Publishes a row to an outbox of another database.
async fn publish(database: &str, outbox: &str) {
    let pool = database::pool(database);
    sqlx::query("SELECT tide.outbox_publish($1, '{}', '{}', 'k')")
        .bind(outbox)
        .execute(&pool)
        .await
        .expect("published");
    pool.close().await;
}

async fn wait_for_outbox(world: &World, outbox: &str, rows: usize) {
    let arrived = || {
        let delivered = world.delivered();
        delivered
            .iter()
            .filter(|row| *row.outbox == *outbox)
            .count()
            >= rows
    };
    until("rows of the other database", PATIENCE, arrived).await;
}

fn is_known(relay: &Relay, database: &str) -> bool {
    let status = relay.status();
    let databases = status["databases"].as_array().expect("databases");
    databases.iter().any(|known| known["name"] == database)
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_replaced_under_load_and_no_row_comes_twice() {
    scenario(2 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        let with = |connections: u32| {
            configuration(&json!([
                {"name": "default", "url": world.url, "max_connections": connections}
            ]))
        };
        let file = File::with(&with(4));
        let relay = file.relay(&world, &[]).await;
        relay.wait_for_state("events", "running").await;
        let before = series(&relay);
        let mut rows = Vec::new();
        for round in 0..10 {
            rows.extend(world.publish_many("events", 100, 9, 10).await);
            let was = epoch(&relay, "events");
            take(&relay, &file, &with(3 + round % 2)).await;
            until("it has started again", PATIENCE, || {
                epoch(&relay, "events") > was
            })
            .await;
            relay.wait_for_state("events", "running").await;
        }
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        let open = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'tidegate'";
        let mut left = world.number(open).await;
        for _ in 0..200 {
            if left <= 4 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            left = world.number(open).await;
        }
        assert!(left <= 4, "{left} connections");
        let after = series(&relay);
        assert_eq!(before, after, "{}", difference(&before, &after));
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_come_and_go() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        world.lost_counters();
        let own = json!({"name": "own", "url": world.url});
        let alone = configuration(&json!([own]));
        let file = File::with(&alone);
        let relay = file.relay(&world, &[]).await;
        relay.wait_for_state("events", "running").await;
        let rows = world.publish_many("events", 10, 3, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        let (before, first_epoch) = (series(&relay), epoch(&relay, "events"));
        let (url, name) = another("more").await;
        for round in 1..=3 {
            let both = configuration(&json!([own, {"name": "other", "url": url}]));
            take(&relay, &file, &both).await;
            relay.wait_for_state("more", "running").await;
            publish(&name, "more").await;
            wait_for_outbox(&world, "more", round).await;
            take(&relay, &file, &alone).await;
            until("it is removed", PATIENCE, || {
                relay.pipeline("more").is_null() && !is_known(&relay, "other")
            })
            .await;
            for _ in 0..200 {
                if connections(&world.pool, &name).await == 0 {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            assert_eq!(
                connections(&world.pool, &name).await,
                0,
                "connections are left"
            );
            let after = series(&relay);
            assert_eq!(before, after, "{}", difference(&before, &after));
        }
        assert_eq!(
            world
                .delivered()
                .iter()
                .filter(|row| &*row.outbox == "more")
                .count(),
            3
        );
        assert_eq!(epoch(&relay, "events"), first_epoch, "it was left alone");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_leads_to_another_database() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        world.lost_counters();
        let file = File::with(&configuration(&json!([{"name": "db", "url": world.url}])));
        let relay = file.relay(&world, &[]).await;
        relay.wait_for_state("events", "running").await;
        let rows = world.publish_many("events", 10, 3, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        let (url, name) = another("more").await;
        publish(&name, "more").await;
        take(
            &relay,
            &file,
            &configuration(&json!([{"name": "db", "url": url}])),
        )
        .await;
        wait_for_outbox(&world, "more", 1).await;
        until("the old pipeline is gone", PATIENCE, || {
            relay.pipeline("events").is_null()
        })
        .await;
        // Somewhere nobody answers, and back: it does not wait for what is not there.
        let dead = json!([{"name": "db", "url": "postgres://nobody@127.0.0.1:1/none"}]);
        take(&relay, &file, &configuration(&dead)).await;
        until("nobody answers", PATIENCE, || {
            relay.status()["databases"][0]["up"] == false
        })
        .await;
        take(
            &relay,
            &file,
            &configuration(&json!([{"name": "db", "url": world.url}])),
        )
        .await;
        relay.wait_for_state("events", "running").await;
        let rows = world.publish_many("events", 10, 3, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
