//! Records of many rows fail, are throttled, get lost; relays die.

use std::time::Duration;

use serde_json::json;
use tidegate::core::aggregation::kpl;
use tidegate::demo::consumer::Arrived;
use tidegate::demo::faults::{Applied, CallFault, Often, Operation, THROTTLED};
use tidegate::demo::load::OutboxLoad;

use crate::raw_consumer;
use crate::scenario::{PATIENCE, scenario, scenario_alone, until};
use crate::world::World;

fn load(name: &str) -> OutboxLoad {
    OutboxLoad {
        workers: 4,
        keys: 30,
        rows_per_second: Some(300.0),
        ..OutboxLoad::new(name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn order_and_completeness_hold_while_records_and_calls_fail() {
    scenario_alone(3 * PATIENCE, async {
        let world = World::new(2).await;
        world
            .pipeline(
                "events",
                json!({"aggregation": "kpl", "aggregation_max_bytes": 3000}),
            )
            .await;
        world
            .pipeline(
                "lines",
                json!({"aggregation": "ndjson", "compression": "gzip"}),
            )
            .await;
        let faults = world.emulator.faults();
        faults.fail_records(Often::Share(0.2), "InternalFailure");
        faults.fail_records(Often::Share(0.1), THROTTLED);
        faults.inject(
            Operation::PutRecords,
            Often::Share(0.1),
            CallFault::internal_failure(Applied::First),
        );
        faults.inject(
            Operation::PutRecords,
            Often::Share(0.1),
            CallFault::Reset {
                applied: Applied::Never,
            },
        );
        let relay = world.relay().await;
        let load = world.load(vec![load("events"), load("lines")], 77).await;
        world.wait_until_received(600).await;
        relay.kill();
        let relay = world.relay().await;
        let received = world.consumer.received();
        world.wait_until_received(received + 600).await;
        faults.heal();
        faults.set_latency(Duration::ZERO, Duration::ZERO);
        let (report, verdict) = world.settle(load).await;
        eprintln!(
            "{} rows, {} sent again",
            report.committed.len(),
            verdict.duplicates
        );
        assert!(
            verdict.duplicates > 0,
            "an answer was lost, and nothing was repeated"
        );
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_permission_to_list_shards_only_rows_of_one_key_share_a_record() {
    scenario(2 * PATIENCE, async {
        let world = World::new(3).await;
        let raw = raw_consumer(&world).await;
        let denied = CallFault::code("AccessDeniedException");
        let faults = world.emulator.faults();
        faults.inject(Operation::ListShards, Often::Always, denied);
        world
            .pipeline("events", json!({"aggregation": "kpl"}))
            .await;
        let rows = world.publish_many("events", 2_000, 10, 10).await;
        let relay = world.relay().await;
        until("the rows have been delivered", PATIENCE, || {
            relay.metric("tidegate_rows_delivered_total", &[]) >= 2_000.0
        })
        .await;
        faults.heal();
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        let mut records = Vec::new();
        until("the raw records are there", PATIENCE, || {
            records.extend(raw.drain());
            let rows = records.iter().map(|record: &Arrived| {
                kpl::decode::rows(&record.data).map_or(1, |rows| rows.len())
            });
            rows.sum::<usize>() == 2_000
        })
        .await;
        assert!(records.len() < 400, "{} records", records.len());
        for record in &records {
            for (key, _) in kpl::decode::rows(&record.data).unwrap_or_default() {
                assert_eq!(key, record.partition_key);
            }
        }
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
