//! The relay's memory stays under its ceiling: a real process, its resident memory
//! read from the operating system the whole time.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::large_futures,
    reason = "a test says what it expects, and has its thread's stack for itself"
)]
#![cfg(feature = "demo")]

#[path = "common/database.rs"]
mod database;
#[path = "common/process.rs"]
mod process;
#[path = "common/relay.rs"]
mod relay;
#[path = "common/scenario.rs"]
mod scenario;
#[path = "common/world.rs"]
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::demo::emulator::EmulatorOptions;
use tidegate::demo::faults::{Applied, CallFault, Often, Operation};
use tidegate::demo::verdict::Committed;
use tokio::time::Instant;

use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario_alone, until};
use crate::world::World;

const MIB: u64 = 1024 * 1024;

/// The ceiling of every relay here.
const CEILING: u64 = 72 * MIB;
const SETTINGS: [(&str, &str); 2] = [
    ("TIDEGATE__LIMITS__MEMORY", "72MiB"),
    ("TIDEGATE__LIMITS__PIPELINE_BYTES", "72MiB"),
];

/// How often the memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Watches a relay's resident memory.
struct Watch {
    most: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    fn of(relay: &Relay) -> Self {
        let (most, ended) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let status = relay.status_path();
        let thread = {
            let (most, ended) = (Arc::clone(&most), Arc::clone(&ended));
            std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    if let Some(bytes) = relay::resident_bytes(&status) {
                        most.fetch_max(bytes, Ordering::Relaxed);
                    }
                    std::thread::sleep(LOOK_EVERY);
                }
            })
        };
        Self {
            most,
            ended,
            thread: Some(thread),
        }
    }

    fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    #[track_caller]
    fn assert_under_the_ceiling(&self, when: &str) {
        let most = self.most();
        eprintln!("{when}: at most {:.1} MiB", most as f64 / MIB as f64);
        assert!(most > MIB, "it was looked at");
        assert!(most < CEILING, "{when}: {most} bytes");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it only looks");
        }
    }
}

/// A world whose streams take what they get.
async fn world(shards: u16) -> World {
    let name = database::migrated_database().await;
    let url = database::server().url_as(database::OWNER, &name);
    let options = EmulatorOptions {
        enforce_limits: false,
        ..EmulatorOptions::default()
    };
    World::at(url, shards, options).await
}

fn refuse_everything(world: &World) {
    let fault = CallFault::internal_failure(Applied::Never);
    let faults = world.emulator.faults();
    faults.inject(Operation::PutRecords, Often::Always, fault);
}

/// What the relay says it uses of its budget never exceeds it by more than the one
/// row that goes alone.
fn assert_within_budget(relay: &Relay) {
    let used = relay.metric("tidegate_memory_used_bytes", &[]);
    let budget = relay.metric("tidegate_memory_budget_bytes", &[]);
    assert!(budget > 0.0 && used <= budget + 1.1e6, "{used} of {budget}");
    let limit = relay.metric("tidegate_memory_limit_bytes", &[]);
    assert!((limit - CEILING as f64).abs() < 1.0, "{limit}");
    assert!(relay.metric("process_resident_memory_bytes", &[]) > 1e6);
}

/// Rows of 100 bytes wait while the stream refuses everything; then all arrive.
async fn a_backlog_and_an_outage(
    definition: Value,
    rows: usize,
    outage: Duration,
    patience: Duration,
) {
    let world = world(8).await;
    world.pipeline("events", definition).await;
    let mut committed: Vec<Committed> = Vec::new();
    while committed.len() < rows {
        let some = (rows - committed.len()).min(100_000);
        committed.extend(world.publish_many("events", some, 1000, 100).await);
    }
    refuse_everything(&world);
    let relay = world.relay_with(&SETTINGS).await;
    let watch = Watch::of(&relay);
    until("rows are on their way", PATIENCE, || {
        relay.metric("tidegate_in_flight_rows", &[]) > 100.0
    })
    .await;
    let healed_at = Instant::now() + outage;
    while Instant::now() < healed_at {
        assert_within_budget(&relay);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    watch.assert_under_the_ceiling("during the outage");
    world.emulator.faults().heal();
    let began = Instant::now();
    world.wait_for(&committed, patience).await;
    let rate = committed.len() as f64 / began.elapsed().as_secs_f64();
    eprintln!("{rows} rows, {rate:.0} rows/s after the outage");
    assert_within_budget(&relay);
    let verdict = world.judge(&committed).await;
    assert!(verdict.is_clean(), "{verdict:#?}");
    watch.assert_under_the_ceiling("all the time");
    drop(watch);
    assert_eq!(relay.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_recovered_under_the_ceiling() {
    scenario_alone(
        3 * PATIENCE,
        a_backlog_and_an_outage(json!({}), 60_000, Duration::from_secs(5), 2 * PATIENCE),
    )
    .await;
}

/// As large as records of many rows can be.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_in_records_of_many_rows_is_recovered_under_the_ceiling() {
    let definition = json!({"aggregation": "kpl", "aggregation_max_bytes": 1 << 20});
    scenario_alone(
        3 * PATIENCE,
        a_backlog_and_an_outage(definition, 60_000, Duration::from_secs(5), 2 * PATIENCE),
    )
    .await;
}

/// `make test-memory` runs it: some minutes, and 3 GiB for the emulator.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make test-memory"]
async fn two_million_rows_are_recovered_under_the_ceiling() {
    let patience = Duration::from_secs(1800);
    scenario_alone(
        2 * patience,
        a_backlog_and_an_outage(json!({}), 2_000_000, Duration::from_secs(60), patience),
    )
    .await;
}

/// Small rows first, so that the reader expects more of them; then rows of almost
/// 1 MiB, which compress to 12 KB in the table.
#[tokio::test(flavor = "multi_thread")]
async fn large_rows_behind_small_ones_stay_under_the_ceiling() {
    large_rows_behind_small_ones(json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_rows_that_are_compressed_stay_under_the_ceiling() {
    let definition = json!({
        "aggregation": "ndjson", "aggregation_max_bytes": 1 << 20, "compression": "zstd",
    });
    large_rows_behind_small_ones(definition).await;
}

async fn large_rows_behind_small_ones(definition: Value) {
    scenario_alone(3 * PATIENCE, async {
        let world = world(4).await;
        world.pipeline("events", definition).await;
        let mut committed = world.publish_many("events", 10_000, 100, 100).await;
        committed.extend(world.publish_many("events", 60, 100, 1_000_000).await);
        refuse_everything(&world);
        let relay = world.relay_with(&SETTINGS).await;
        let watch = Watch::of(&relay);
        until("rows are on their way", PATIENCE, || {
            relay.metric("tidegate_in_flight_rows", &[]) > 100.0
        })
        .await;
        world.emulator.faults().heal();
        world.wait_for(&committed, 2 * PATIENCE).await;
        assert_within_budget(&relay);
        let verdict = world.judge(&committed).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        watch.assert_under_the_ceiling("all the time");
        drop(watch);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// Each of twenty pipelines has rows larger than its part of the memory, and nothing
/// can be sent for a while.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_pipelines_with_large_rows_stay_under_the_ceiling() {
    scenario_alone(3 * PATIENCE, async {
        let world = world(4).await;
        let names: Vec<String> = (0..20).map(|number| format!("p{number}")).collect();
        let mut committed = Vec::new();
        for name in &names {
            world.pipeline(name, json!({})).await;
            committed.extend(world.publish_many(name, 500, 10, 100).await);
            committed.extend(world.publish_many(name, 3, 10, 1_000_000).await);
            committed.extend(world.publish_many(name, 20, 10, 100).await);
        }
        refuse_everything(&world);
        let relay = world.relay_with(&SETTINGS).await;
        let watch = Watch::of(&relay);
        until("all pipelines have rows on their way", PATIENCE, || {
            names
                .iter()
                .all(|name| relay.metric("tidegate_in_flight_rows", &[("pipeline", name)]) > 0.0)
        })
        .await;
        assert_within_budget(&relay);
        world.emulator.faults().heal();
        world.wait_for(&committed, 2 * PATIENCE).await;
        assert_within_budget(&relay);
        watch.assert_under_the_ceiling("all the time");
        drop(watch);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// Rows of 100 MiB, with the key inside: they are parked without being read.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_no_stream_takes_are_parked_unread() {
    scenario_alone(3 * PATIENCE, async {
        let world = world(1).await;
        let definition = json!({"partition_key": "{payload.order.id}", "on_poison": "block_key"});
        world.pipeline("events", definition).await;
        for number in 0..2 {
            world
                .sql(&format!(
                    "SELECT tide.outbox_publish('events', jsonb_build_object(
                        'order', jsonb_build_object('id', {number}), 'text', repeat('x', 100 * 1024 * 1024)))"
                ))
                .await;
        }
        // The second one's key is blocked with it, the third key is free.
        for number in [1, 2] {
            world
                .publish("events", "k", json!({"order": {"id": number}}))
                .await;
        }
        let relay = world.relay_with(&SETTINGS).await;
        let watch = Watch::of(&relay);
        world.wait_until_received(1).await;
        until("the rows are parked", PATIENCE, || {
            relay.metric("tidegate_rows_parked_total", &[]) > 2.5
        })
        .await;
        watch.assert_under_the_ceiling("all the time");
        let parked = "SELECT count(*) FROM tide.relay_dead_letter
            WHERE reason = 'record_too_large' AND partition_key IN ('0', '1') AND bytes > 100 * 1024 * 1024";
        assert_eq!(world.number(parked).await, 2);
        let behind = "SELECT count(*) FROM tide.relay_dead_letter WHERE reason = 'key_blocked' AND partition_key = '1'";
        assert_eq!(world.number(behind).await, 1);
        let arrived = world.arrived();
        assert_eq!(arrived.len(), 1, "only the row of the free key");
        // Sent again as they are, they are parked again, unread.
        world.sql("SELECT tide.relay_dlq_retry_all('events')").await;
        let again = "SELECT count(*) FROM tide.relay_dead_letter WHERE attempts > 0 AND state = 'parked'";
        let deadline = Instant::now() + PATIENCE;
        while world.number(again).await < 2 {
            assert!(Instant::now() < deadline, "they are not parked again");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        watch.assert_under_the_ceiling("with the letters sent again");
        drop(watch);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
