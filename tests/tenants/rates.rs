//! The rate of a tenant: of all its pipelines together, exact in the long run, and
//! nobody else waits for it.

use std::collections::HashSet;

use serde_json::{Value, json};
use tidegate::demo::delivered::Delivered;
use tokio::time::Instant;

use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario_alone, until};
use crate::way::{Road, Way};
use crate::world::World;

/// Rows a second of the tenant, and what may go at once.
const RATE: f64 = 200.0;
const BURST: usize = 50;

/// Rows of each of its two pipelines: 15 s of the rate.
const ROWS: usize = 1_500;

/// When the first arrivals of rows were, in order, by outbox.
fn arrivals(world: &World) -> Vec<(Instant, String)> {
    let mut arrived = Vec::new();
    let mut seen = HashSet::new();
    for record in world.arrived() {
        let row = Delivered::parse(&record).expect("a native body");
        if seen.insert(row.event()) {
            arrived.push((record.received_at, row.outbox.to_string()));
        }
    }
    arrived.sort();
    arrived
}

/// Rows a second, without what the burst let go at once; and for how long.
fn rate_of(arrived: &[(Instant, String)]) -> (f64, f64) {
    let after_burst = &arrived[2 * BURST..];
    let seconds = (after_burst[after_burst.len() - 1].0 - after_burst[0].0).as_secs_f64();
    ((after_burst.len() - 1) as f64 / seconds, seconds)
}

async fn two_pipelines_share_a_rate(way: Way) {
    let world = World::new(2).await;
    let limits = json!({"max_messages_per_second": RATE, "burst": BURST});
    world
        .sql(&format!("SELECT tide.relay_set_tenant('slow', '{limits}')"))
        .await;
    world.pipeline("one", json!({"tenant": "slow"})).await;
    world
        .pipeline("two", json!({"tenant": "slow", "weight": 3}))
        .await;
    world.pipeline("free", json!({"tenant": "fast"})).await;
    let road = Road::new(way).await;
    let relay = road.relay(&world, &[]).await;
    for name in ["one", "two", "free"] {
        relay.wait_for_state(name, "running").await;
    }
    world.emulator.tally().log_calls(100_000, false);
    let mut rows = world.publish_many("one", ROWS, 300, 10).await;
    rows.extend(world.publish_many("two", ROWS, 300, 10).await);
    let began = Instant::now();
    let free = world.publish_many("free", 1_000, 500, 10).await;
    world.wait_for(&free, PATIENCE).await;
    let of_free = began.elapsed();
    rows.extend(free);

    until("the status says why", PATIENCE, || {
        let status = relay.status();
        let tenants = status["tenants"].as_array().expect("a list").clone();
        tenants
            .iter()
            .any(|one| one["name"] == "slow" && one["limited_by"] == "quota")
    })
    .await;
    let verdict = world.judge(&rows).await;
    assert!(verdict.is_clean(), "{verdict:#?}");
    assert_eq!(verdict.duplicates, 0);

    let mut arrived = arrivals(&world);
    arrived.retain(|(_, outbox)| outbox != "free");
    assert_eq!(arrived.len(), 2 * ROWS);
    // Both have work until the heavier one is done.
    let last_of_two = arrived
        .iter()
        .rposition(|(_, outbox)| outbox == "two")
        .expect("rows");
    let of_two = ROWS as f64 / (last_of_two + 1) as f64;
    let (rate, seconds) = rate_of(&arrived);
    let within_a_second = arrived
        .iter()
        .filter(|(at, _)| (*at - arrived[0].0).as_secs_f64() < 1.0)
        .count();
    let limited = relay.metric(
        "tidegate_tenant_limited_seconds_total",
        &[("tenant", "slow"), ("by", "quota")],
    );
    eprintln!(
        "{rate:.1} rows/s over {seconds:.1} s of {RATE}; {within_a_second} in the first second; \
         the pipeline of weight 3 got {of_two:.3}; limited by its rate for {limited:.1} s; 1,000 rows of another \
         tenant took {of_free:?}"
    );
    // Exactly it is tested in simulated time.
    assert!((0.8..1.05).contains(&(rate / RATE)), "{rate}");
    assert!(within_a_second as f64 <= RATE * 1.2 + BURST as f64);
    assert!((0.6..0.9).contains(&of_two), "{of_two}");
    assert!(limited > 1.0, "{limited}");
    assert!(of_free.as_secs_f64() < seconds / 2.0, "{of_free:?}");
    assert_eq!(relay.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pipelines_of_a_tenant_share_its_rate_and_others_do_not_wait() {
    scenario_alone(3 * PATIENCE, two_pipelines_share_a_rate(Way::Direct)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pipelines_of_a_tenant_share_its_rate_and_others_do_not_wait_through_a_pooler() {
    scenario_alone(3 * PATIENCE, two_pipelines_share_a_rate(Way::Pooled)).await;
}

/// The part of the tenant's rate that a relay uses, once it runs one pipeline of it.
fn fraction(relay: &Relay) -> f64 {
    let status = relay.status();
    let tenants = status["tenants"].as_array().cloned().unwrap_or_default();
    let slow = tenants.iter().find(|one| one["name"] == "slow");
    let slow = slow.filter(|one| one["pipelines_here"] == 1);
    slow.map_or(&Value::Null, |one| &one["quota_fraction"])
        .as_f64()
        .unwrap_or(1.0)
}

async fn two_nodes_share_a_rate(way: Way) {
    let world = World::new(2).await;
    let limits = json!({"max_messages_per_second": RATE, "burst": BURST});
    world
        .sql(&format!("SELECT tide.relay_set_tenant('slow', '{limits}')"))
        .await;
    for name in ["one", "two"] {
        world.pipeline(name, json!({"tenant": "slow"})).await;
    }
    let road = Road::new(way).await;
    let (first, second) = (road.relay(&world, &[]).await, road.relay(&world, &[]).await);
    until("each runs one of the two", 2 * PATIENCE, || {
        [&first, &second]
            .iter()
            .all(|relay| (fraction(relay) - 0.5).abs() < 1e-9)
    })
    .await;
    let mut rows = world.publish_many("one", ROWS, 300, 10).await;
    rows.extend(world.publish_many("two", ROWS, 300, 10).await);
    let verdict = world.judge(&rows).await;
    assert!(verdict.is_clean(), "{verdict:#?}");
    let (rate, seconds) = rate_of(&arrivals(&world));
    eprintln!("{rate:.1} rows/s of two nodes over {seconds:.1} s of {RATE}");
    assert!((0.8..1.05).contains(&(rate / RATE)), "{rate}");
    assert_eq!(first.terminate().await, 0);
    assert_eq!(second.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_holds_for_two_nodes_together() {
    scenario_alone(3 * PATIENCE, two_nodes_share_a_rate(Way::Direct)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_holds_for_two_nodes_together_through_a_pooler() {
    scenario_alone(3 * PATIENCE, two_nodes_share_a_rate(Way::Pooled)).await;
}
