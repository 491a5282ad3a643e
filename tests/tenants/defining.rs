//! Where tenants are defined, what is refused, and whom a mistake harms.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::configured::{File, epoch, reader_restarts, take};
use crate::database;
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::statements::{assert_refused, json_value, run, value};
use crate::way::{Road, Way};
use crate::world::{STREAM, World};

/// A tenant on the board.
fn tenant(relay: &Relay, name: &str) -> Value {
    let status = relay.status();
    let tenants = status["tenants"].as_array().expect("a list");
    let found = tenants.iter().find(|tenant| tenant["name"] == name);
    found.cloned().unwrap_or(Value::Null)
}

fn configuration(database: &Value, more: &Value) -> Value {
    let mut all = json!({
        "databases": [database],
        "admin": {"listen": "127.0.0.1:0"},
        "cluster": {"lease": "2s"},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        all[key] = value.clone();
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_with_what_is_allowed() {
    let pool = database::migrated().await;
    let set =
        |name: &str, config: &str| format!("SELECT tide.relay_set_tenant('{name}', '{config}')");
    let cases = [
        (
            r#"{"wieght": 1}"#,
            "wieght",
            "weight, max_messages_per_second",
        ),
        (r#"{"weight": 0}"#, "weight", "an integer from 1 to 1000"),
        (r#"{"weight": "1"}"#, "weight", "an integer from 1 to 1000"),
        (
            r#"{"max_messages_per_second": 0}"#,
            "max_messages_per_second",
            "a number above 0",
        ),
        (
            r#"{"max_messages_per_second": "5"}"#,
            "max_messages_per_second",
            "a number above 0",
        ),
        (
            r#"{"max_bytes_per_second": 1.5}"#,
            "max_bytes_per_second",
            "an integer of at least 1",
        ),
        (
            r#"{"burst": 0, "max_messages_per_second": 1}"#,
            "burst",
            "an integer from 1 to 1000000",
        ),
        (r#"{"burst": 5}"#, "burst", "faster than that rate"),
        (
            r#"{"max_in_flight_bytes": 100}"#,
            "max_in_flight_bytes",
            "65536",
        ),
        ("[]", "JSON object", "weight"),
    ];
    for (config, key, hint) in cases {
        assert_refused(&pool, &set("acme", config), "22023", &[key, hint]).await;
    }
    assert_refused(&pool, &set("", "{}"), "22023", &["name of the tenant"]).await;
    let whole = r#"{"weight": 2, "max_messages_per_second": 0.5, "max_bytes_per_second": 9,
        "burst": 3, "max_in_flight_bytes": 65536}"#;
    run(&pool, &set("acme", whole)).await;
    run(&pool, &set("acme", r#"{"weight": 3, "burst": null}"#)).await;
    let config = json_value(&pool, "SELECT config FROM tide.relay_list_tenants()").await;
    assert_eq!(config, json!({"weight": 3}));
    run(&pool, "SELECT tide.relay_delete_tenant('acme')").await;
    let gone = "SELECT tide.relay_delete_tenant('acme')";
    assert_refused(&pool, gone, "42704", &["acme", "relay_list_tenants"]).await;
    let count: i64 = value(&pool, "SELECT count(*) FROM tide.relay_tenant").await;
    assert_eq!(count, 0);
}

async fn tenants_are_defined(way: Way) {
    let world = World::new(1).await;
    for (pipeline, tenant) in [("a", "acme"), ("b", "bad"), ("c", "clean")] {
        world.pipeline(pipeline, json!({"tenant": tenant})).await;
    }
    let road = Road::new(way).await;
    let relay = road.relay(&world, &[]).await;
    for name in ["a", "b", "c"] {
        relay.wait_for_state(name, "running").await;
    }
    assert_eq!(tenant(&relay, "acme")["weight"], 1);
    let epochs = || ["a", "b", "c"].map(|name| epoch(&relay, name));
    let first_epochs = epochs();

    let asked = Instant::now();
    world
        .sql(r#"SELECT tide.relay_set_tenant('acme', '{"weight": 7, "max_messages_per_second": 100000}')"#)
        .await;
    until("it is live", PATIENCE, || {
        tenant(&relay, "acme")["weight"] == 7
    })
    .await;
    let took = asked.elapsed();
    eprintln!("live after {took:?}");
    // Two seconds on a machine that is not busy.
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(tenant(&relay, "acme")["max_messages_per_second"], 100_000.0);
    assert_eq!(tenant(&relay, "acme")["pipelines_here"], 1);

    // What the functions would refuse came in by another way.
    world
        .sql(r#"INSERT INTO tide.relay_tenant (name, config) VALUES ('bad', '{"wieght": 3}')"#)
        .await;
    until("it is found", PATIENCE, || {
        tenant(&relay, "bad")["problem"]
            .as_str()
            .is_some_and(|problem| problem.contains("wieght"))
    })
    .await;
    assert!(
        relay
            .log()
            .contains("the tenant's definition is not acceptable")
    );
    assert_eq!(tenant(&relay, "acme")["weight"], 7);
    assert_eq!(tenant(&relay, "clean")["problem"], Value::Null);
    let mut rows = Vec::new();
    for outbox in ["a", "b", "c"] {
        rows.extend(world.publish_many(outbox, 100, 10, 10).await);
    }
    let verdict = world.judge(&rows).await;
    assert!(verdict.is_clean(), "{verdict:#?}");
    let delivered = |tenant| {
        relay.metric(
            "tidegate_tenant_rows_delivered_total",
            &[("tenant", tenant)],
        )
    };
    until("they are counted", PATIENCE, || {
        ["acme", "bad", "clean"].map(delivered) == [100.0; 3]
    })
    .await;

    world.sql("SELECT tide.relay_delete_tenant('acme')").await;
    until("it is gone", PATIENCE, || {
        tenant(&relay, "acme")["weight"] == 1
    })
    .await;
    assert_eq!(epochs(), first_epochs, "nothing was restarted");
    assert_eq!(relay.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_in_the_database_is_live_within_two_seconds_and_a_bad_one_is_alone() {
    scenario(2 * PATIENCE, tenants_are_defined(Way::Direct)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_in_the_database_is_live_within_two_seconds_and_a_bad_one_is_alone_through_a_pooler()
 {
    scenario(2 * PATIENCE, tenants_are_defined(Way::Pooled)).await;
}

async fn the_file_comes_first(way: Way) {
    let world = World::new(1).await;
    world.outbox("events").await;
    let road = Road::new(way).await;
    let database = road.database(&world);
    let with = |tenants: Value| {
        configuration(
            &database,
            &json!({
                "pipelines": [{"name": "events", "outbox": "events", "tenant": "acme",
                    "stream_name": STREAM, "region": "us-east-1"}],
                "tenants": tenants,
            }),
        )
    };
    let file = File::with(&with(json!([{"name": "acme", "weight": 3}])));
    let relay = file.relay(&world, &[]).await;
    relay.wait_for_state("events", "running").await;
    let first_epoch = epoch(&relay, "events");
    assert_eq!(tenant(&relay, "acme")["weight"], 3);
    world
        .sql(r#"SELECT tide.relay_set_tenant('acme', '{"weight": 9}')"#)
        .await;
    world
        .sql(r#"SELECT tide.relay_set_tenant('other', '{"weight": 5}')"#)
        .await;
    until("both are found", PATIENCE, || {
        tenant(&relay, "acme")["problem"]
            .as_str()
            .is_some_and(|problem| problem.contains("the configuration file is in force"))
    })
    .await;
    assert_eq!(tenant(&relay, "acme")["weight"], 3);
    assert_eq!(tenant(&relay, "other")["weight"], 5);
    assert_eq!(tenant(&relay, "other")["problem"], Value::Null);

    let changed = json!([{
        "name": "acme", "weight": 4, "max_messages_per_second": 50_000, "burst": 100,
        "max_bytes_per_second": "9MiB", "max_in_flight_bytes": "1MiB",
    }]);
    take(&relay, &file, &with(changed)).await;
    until("it is taken", PATIENCE, || {
        tenant(&relay, "acme")["weight"] == 4
    })
    .await;
    let acme = tenant(&relay, "acme");
    assert_eq!(acme["burst"], 100);
    assert_eq!(acme["max_bytes_per_second"], 9 << 20);
    assert_eq!(acme["max_in_flight_bytes"], 1 << 20);
    let rows = world.publish_many("events", 500, 50, 2_000).await;
    let verdict = world.judge(&rows).await;
    assert!(verdict.is_clean(), "{verdict:#?}");

    // The file does not define it any more: that of the database is in force.
    take(&relay, &file, &with(json!([]))).await;
    until("it is the database's", PATIENCE, || {
        tenant(&relay, "acme")["weight"] == 9
    })
    .await;
    assert_eq!(tenant(&relay, "acme")["problem"], Value::Null);
    assert_eq!(epoch(&relay, "events"), first_epoch);
    assert!(reader_restarts(&relay).abs() < f64::EPSILON);
    assert_eq!(relay.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_stays_in_force_where_a_name_is_defined_twice_and_follows_sighup() {
    scenario(2 * PATIENCE, the_file_comes_first(Way::Direct)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_stays_in_force_where_a_name_is_defined_twice_and_follows_sighup_through_a_pooler()
{
    scenario(2 * PATIENCE, the_file_comes_first(Way::Pooled)).await;
}
