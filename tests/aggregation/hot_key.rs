//! One key, with and without aggregation.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::scenario::{PATIENCE, scenario_alone};
use crate::world::World;

/// What a call takes to the service and back.
const ROUND_TRIP: Duration = Duration::from_millis(15);

/// Rows of one key a second through one shard,
/// and the part of the shard's byte rate that this is.
async fn rows_per_second(aggregation: &str, rows: usize) -> (f64, f64) {
    let world = World::new(1).await;
    world.emulator.faults().set_latency(ROUND_TRIP, ROUND_TRIP);
    world
        .pipeline("events", json!({"aggregation": aggregation}))
        .await;
    let relay = world.relay().await;
    // What the shard has saved up is spent, and everything is warm.
    let first = world.publish_many("events", rows / 4, 1, 10).await;
    world.wait_for(&first, PATIENCE).await;
    let accepted = || relay.metric("tidegate_shard_bytes_accepted_total", &[]);
    let before = accepted();
    let rows = world.publish_many("events", rows, 1, 10).await;
    let begun = Instant::now();
    world.wait_for(&rows, 2 * PATIENCE).await;
    let seconds = begun.elapsed().as_secs_f64();
    let rate = rows.len() as f64 / seconds;
    let share = (accepted() - before) / seconds / f64::from(1 << 20);
    let all = [first, rows].concat();
    let verdict = world.judge(&all).await;
    assert!(
        verdict.is_clean() && verdict.duplicates == 0,
        "{verdict:#?}"
    );
    eprintln!(
        "{aggregation}: {rate:.0} rows/s of one key, {:.1} % of the shard's bytes",
        share * 100.0
    );
    assert_eq!(relay.terminate().await, 0);
    (rate, share)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_key_fills_its_shard_in_aggregated_records() {
    scenario_alone(4 * PATIENCE, async {
        let (alone, _) = rows_per_second("none", 200).await;
        let (together, share) = rows_per_second("kpl", 16_000).await;
        let ratio = together / alone;
        eprintln!("ratio {ratio:.1}");
        assert!(ratio > 20.0, "{together:.0} to {alone:.0} rows/s");
        assert!(share > 0.8, "{share:.3} of the shard's byte rate");
    })
    .await;
}
