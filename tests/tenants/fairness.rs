//! P-FAIR with real processes: nine tenants that send a little, beside one that floods
//! their shard with a hundred times its share.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use tidegate::demo::delivered::{Delivered, EventId};
use tidegate::demo::load::{CommittedRow, KeyOrder, OutboxLoad};
use tokio::time::Instant;

use crate::scenario::{PATIENCE, scenario_alone, until};
use crate::way::{Road, Way};
use crate::world::World;

const SMALL: usize = 9;

/// Rows a second of each of them, and how many of all are measured each time.
const RATE: f64 = 5.0;
const MEASURED: u64 = 700;

/// The flood: its share of a shard is 100 rows a second, and it brings ten thousand at
/// once, again and again.
const FLOOD: usize = 10_000;

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

/// From commit to arrival, of the rows that were committed meanwhile, in order.
fn latencies(world: &World, rows: &[CommittedRow], from: Instant, to: Instant) -> Vec<Duration> {
    let mut seen: HashMap<EventId, Instant> = HashMap::new();
    for record in world.arrived() {
        let row = Delivered::parse(&record).expect("a native body").event();
        seen.entry(row).or_insert(record.received_at);
    }
    let meanwhile = rows
        .iter()
        .filter(|row| row.commit_sent_at >= from && row.commit_sent_at < to);
    let mut took: Vec<Duration> = meanwhile
        .map(|row| seen[&(row.row.outbox.clone(), row.row.id)] - row.commit_sent_at)
        .collect();
    took.sort();
    took
}

async fn flooded(way: Way) {
    let world = World::new(1).await;
    let small: Vec<String> = (0..SMALL).map(|number| format!("small-{number}")).collect();
    for name in &small {
        world.pipeline(name, json!({"tenant": name})).await;
    }
    world.pipeline("flood", json!({"tenant": "flood"})).await;
    let road = Road::new(way).await;
    let relay = road.relay(&world, &[]).await;
    for name in small.iter().map(String::as_str).chain(["flood"]) {
        relay.wait_for_state(name, "running").await;
    }
    let loads = small.iter().map(|name| OutboxLoad {
        workers: 1,
        rows_per_second: Some(RATE),
        key_order: KeyOrder::Locked,
        ..OutboxLoad::new(name)
    });
    let load = world.load(loads.collect(), 77).await;
    load.wait_until_published(50, PATIENCE).await.expect("rows");
    let from = Instant::now();
    let published = load.published();
    load.wait_until_published(published + MEASURED, PATIENCE)
        .await
        .expect("rows");
    let undisturbed = (from, Instant::now());

    let mut rows = world.publish_many("flood", FLOOD, FLOOD, 10).await;
    rows.extend(world.publish_many("flood", FLOOD, FLOOD, 10).await);
    let delivered = || relay.metric("tidegate_rows_delivered_total", &[("pipeline", "flood")]);
    until("the flood is under way", PATIENCE, || delivered() > 1_000.0).await;
    let (from, before) = (Instant::now(), delivered());
    let published = load.published();
    load.wait_until_published(published + MEASURED, PATIENCE)
        .await
        .expect("rows");
    let disturbed = (from, Instant::now());
    let of_flood = (delivered() - before) / from.elapsed().as_secs_f64();
    let is_over = delivered() >= 2.0 * FLOOD as f64;
    let report = load.stop().await.expect("the books");
    rows.extend(report.rows());
    let verdict = world.judge(&rows).await;
    assert!(verdict.is_clean(), "{verdict:#?}");
    let of = |(from, to)| latencies(&world, &report.committed, from, to);
    let (alone, beside) = (of(undisturbed), of(disturbed));
    let ratio = |percent| {
        percentile(&beside, percent).as_secs_f64() / percentile(&alone, percent).as_secs_f64()
    };
    eprintln!(
        "p50 {:?} alone, {:?} beside a flood of {of_flood:.0} rows/s (ratio {:.2}); \
         p99 {:?} and {:?} (ratio {:.2})",
        percentile(&alone, 50),
        percentile(&beside, 50),
        ratio(50),
        percentile(&alone, 99),
        percentile(&beside, 99),
        ratio(99),
    );
    assert!(!is_over, "the flood went on all the time");
    // As much as the machine allows: what it does to the shard is not the question.
    assert!(of_flood > 100.0, "the flood came: {of_flood}");
    // Generous, for a machine under load: in simulated time the ratio is asserted.
    assert!(ratio(99) < 6.0, "{}", ratio(99));
    assert_eq!(relay.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nine_tenants_beside_a_flood() {
    scenario_alone(5 * PATIENCE, flooded(Way::Direct)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nine_tenants_beside_a_flood_through_a_pooler() {
    scenario_alone(5 * PATIENCE, flooded(Way::Pooled)).await;
}
