//! Pipelines that are stuck with all the memory they can get leave the others
//! theirs.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use tidegate::demo::delivered::{Delivered, EventId};
use tidegate::demo::faults::{CallFault, Operation};
use tidegate::demo::load::{CommittedRow, OutboxLoad};
use tidegate::demo::verdict::Committed;
use tokio::time::Instant;

use crate::scenario::{PATIENCE, scenario_alone, until};
use crate::world::World;

/// Little memory: 8 MiB for rows, beside the process's own and the ids of rows (see
/// docs/memory.md); and any one pipeline may take all of it.
const SETTINGS: [(&str, &str); 2] = [
    ("TIDEGATE__LIMITS__MEMORY", "98MiB"),
    ("TIDEGATE__LIMITS__PIPELINE_BYTES", "8MiB"),
];

/// Pipelines that get stuck.
const STUCK: usize = 7;

/// Rows that each of them has to send. They are large, since of a stuck shard only
/// some hundred rows are in memory: four pipelines could fill the memory.
const BACKLOG: usize = 600;
const BACKLOG_BYTES: usize = 8_000;

/// The steady load of the healthy pipeline, in rows a second, and for how long it
/// is measured.
const RATE: f64 = 150.0;
const MEASURED: u64 = 750;

/// A burst for the healthy pipeline, to measure its throughput.
const BURST: usize = 2000;

/// How long the rows that were committed meanwhile took to arrive, in order.
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

/// How long a burst takes to arrive; its rows.
async fn burst(world: &World) -> (Duration, Vec<Committed>) {
    let began = Instant::now();
    let rows = world.publish_many("burst", BURST, 200, 100).await;
    world.wait_for(&rows, PATIENCE).await;
    (began.elapsed(), rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn seven_stuck_pipelines_of_eight_cost_the_eighth_nothing() {
    scenario_alone(4 * PATIENCE, async {
        let world = World::new(1).await;
        let stuck: Vec<String> = (0..STUCK).map(|number| format!("stuck-{number}")).collect();
        for name in &stuck {
            world
                .emulator
                .create_stream(name, 1)
                .await
                .expect("a stream");
            world.pipeline(name, json!({"stream_name": name})).await;
        }
        // Two outboxes of the healthy stream: the load, and the bursts.
        world.pipeline("healthy", json!({})).await;
        world.pipeline("burst", json!({})).await;
        let relay = world.relay_with(&SETTINGS).await;
        for name in stuck.iter().map(String::as_str).chain(["healthy", "burst"]) {
            relay.wait_for_state(name, "running").await;
        }

        let (undisturbed_burst, mut rows) = burst(&world).await;
        let load = OutboxLoad {
            rows_per_second: Some(RATE),
            ..OutboxLoad::new("healthy")
        };
        let load = world.load(vec![load], 31).await;
        let from = Instant::now();
        load.wait_until_published(MEASURED, PATIENCE)
            .await
            .expect("rows");
        let undisturbed = (from, Instant::now());

        let faults = world.emulator.faults();
        for name in &stuck {
            let fault = CallFault::code("AccessDeniedException");
            faults.account().deny(name, Operation::PutRecords, fault);
            world.publish_many(name, BACKLOG, 500, BACKLOG_BYTES).await;
        }
        // They take all that is not kept for others: more than half of the memory.
        let held = || {
            let of =
                |name: &String| relay.metric("tidegate_in_flight_bytes", &[("pipeline", name)]);
            stuck.iter().map(of).sum::<f64>()
        };
        until("the stuck ones hold what they can", PATIENCE, || {
            held() > 5e6
        })
        .await;
        for name in &stuck {
            relay.wait_for_state(name, "waiting").await;
        }
        let from = Instant::now();
        let published = load.published();
        load.wait_until_published(published + MEASURED, PATIENCE)
            .await
            .expect("rows");
        let disturbed = (from, Instant::now());
        let (disturbed_burst, more) = burst(&world).await;
        rows.extend(more);
        let held = held();
        assert!(held < 8.0 * 1024.0 * 1024.0, "{held} bytes");
        assert_eq!(relay.state("healthy"), "running");

        let report = load.stop().await.expect("the books");
        rows.extend(report.rows());
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        let of = |(from, to)| latencies(&world, &report.committed, from, to);
        let (before, meanwhile) = (of(undisturbed), of(disturbed));
        let at =
            |latencies: &[Duration], percent: usize| latencies[latencies.len() * percent / 100];
        for percent in [50, 95] {
            let (before, meanwhile) = (at(&before, percent), at(&meanwhile, percent));
            eprintln!(
                "p{percent}: {before:?} undisturbed, {meanwhile:?} beside {STUCK} stuck pipelines"
            );
            assert!(
                meanwhile < before * 2 + Duration::from_millis(30),
                "p{percent}: {before:?}, then {meanwhile:?}"
            );
        }
        let ratio = disturbed_burst.as_secs_f64() / undisturbed_burst.as_secs_f64();
        eprintln!(
            "a burst of {BURST}: {undisturbed_burst:?} and {disturbed_burst:?}, {held} bytes held"
        );
        assert!(
            ratio < 1.5,
            "{undisturbed_burst:?}, then {disturbed_burst:?}"
        );

        faults.heal();
        for name in &stuck {
            relay.wait_for_state(name, "running").await;
        }
        // The books are read from metrics that end with the relay.
        until("nothing is in flight", 2 * PATIENCE, || {
            relay.metric("tidegate_lag_rows", &[]) + relay.metric("tidegate_in_flight_rows", &[])
                == 0.0
        })
        .await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
