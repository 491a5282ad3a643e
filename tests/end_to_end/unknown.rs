//! Calls whose outcome nobody knows: they are sent again before anything newer.

use std::time::Duration;

use serde_json::json;
use tidegate::demo::faults::{Applied, CallFault, Often, Operation};
use tidegate::demo::load::OutboxLoad;

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
