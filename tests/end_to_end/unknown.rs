//! Calls whose outcome nobody knows: they are sent again before anything newer.

use std::time::Duration;

use serde_json::json;
use tidegate::demo::faults::{Applied, CallFault, Often, Operation};
use tidegate::demo::load::OutboxLoad;
use tidegate::demo::verdict::consume_by_seq;

use crate::scenario::{PATIENCE, scenario};
use crate::world::World;

/// The longest a call may take here.
const TIME_OUT: &str = "300ms";

/// So long that the client has given up.
const TOO_LONG: Duration = Duration::from_millis(600);

/// Every way of not knowing: nothing was stored, all was stored, or all is stored
/// when the next attempt is under way already.
fn faults() -> Vec<CallFault> {
    let outcomes = [Applied::Never, Applied::First, Applied::Late(TOO_LONG)];
    let mut faults = Vec::new();
    for applied in outcomes {
        faults.push(CallFault::internal_failure(applied));
        faults.push(CallFault::Hang {
            hold: TOO_LONG,
            applied,
        });
        faults.push(CallFault::Reset { applied });
        faults.push(CallFault::Garble { applied });
    }
    faults
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_with_an_unknown_outcome_lose_nothing_and_keep_order() {
    scenario(3 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        let relay = world
            .relay_with(&[("TIDEGATE__KINESIS__OPERATION_TIMEOUT", TIME_OUT)])
            .await;
        let load = world
            .load(
                vec![OutboxLoad {
                    workers: 4,
                    keys: 40,
                    rows_per_second: Some(150.0),
                    ..OutboxLoad::new("events")
                }],
                16,
            )
            .await;
        let unknown = || {
            let labels = [("pipeline", "events"), ("reason", "unknown")];
            relay.metric("tidegate_records_retried_total", &labels)
        };
        for fault in faults() {
            let before = unknown();
            let what = format!("{fault:?}");
            world
                .emulator
                .faults()
                .inject(Operation::PutRecords, Often::Next(2), fault);
            crate::scenario::until(&what, PATIENCE, || unknown() > before).await;
            let published = load.published();
            load.wait_until_published(published + 20, PATIENCE)
                .await
                .expect("rows");
            world.emulator.faults().heal();
        }
        let (report, verdict) = world.settle(load).await;
        // What was stored and not known to be came twice.
        assert!(verdict.duplicates > 0, "{verdict:#?}");
        eprintln!(
            "{} rows, {} sent again, {} unknown",
            report.committed.len(),
            verdict.duplicates,
            unknown()
        );
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// The service may apply a call long after its client gave up, sent the records
/// again and went on: they then come once more behind newer ones of their keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_applied_after_newer_rows_of_its_key_repeats_and_reorders_nothing() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let relay = world
            .relay_with(&[("TIDEGATE__KINESIS__OPERATION_TIMEOUT", TIME_OUT)])
            .await;
        relay.wait_for_state("events", "running").await;
        let very_late = CallFault::Hang {
            hold: TOO_LONG,
            applied: Applied::Late(5 * TOO_LONG),
        };
        let faults = world.emulator.faults();
        faults.inject(Operation::PutRecords, Often::Next(1), very_late);
        let mut rows = world.publish_many("events", 1, 1, 10).await;
        world.wait_until_received(1).await;
        rows.extend(world.publish_many("events", 9, 1, 10).await);
        // The ten rows, and the first one again.
        world.wait_until_received(11).await;
        let ids: Vec<i64> = world.delivered().iter().map(|record| record.id).collect();
        let mut expected: Vec<i64> = rows.iter().map(|row| row.id).collect();
        expected.push(expected[0]);
        assert_eq!(ids, expected);
        let consumed: Vec<i64> = consume_by_seq(&world.delivered())
            .into_iter()
            .map(|(_, id)| id)
            .collect();
        assert_eq!(consumed, expected[..10]);
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 1,
            "{verdict:#?}"
        );
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
