//! Whom the end of an actor harms: itself, and readers with rows in it.

use serde_json::json;
use tidegate::core::shard_map::hash_key;
use tidegate::demo::faults::{Applied, CallFault, Often, Operation};
use tidegate::demo::verdict::Committed;

use crate::relay::Relay;
use crate::restarts::{all_restarts, restarts, restarts_of_reader};
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

/// Keys of the lower or the upper half of the hash keys: of one of two shards.
fn keys(upper: bool) -> impl Iterator<Item = String> {
    (0..)
        .map(|n| format!("k-{n}"))
        .filter(move |key| (hash_key(key) > u128::MAX / 2) == upper)
}

async fn publish(world: &World, outbox: &str, upper: bool, rows: usize) -> Vec<Committed> {
    let mut committed = Vec::new();
    for key in keys(upper).take(rows) {
        let id = world.publish(outbox, &key, json!({"n": 1})).await;
        committed.push(Committed {
            outbox: outbox.into(),
            id,
            key: Some(key.into()),
            order: Some(id.unsigned_abs()),
        });
    }
    committed
}

/// Two pipelines, each with rows for one of two shards alone, and one without.
async fn halves(faults: &str) -> (World, Relay) {
    let world = World::new(2).await;
    for name in ["lower", "upper", "idle"] {
        world.pipeline(name, json!({})).await;
    }
    let relay = world.relay_with(&[("TIDEGATE_TEST_FAULTS", faults)]).await;
    for name in ["lower", "upper", "idle"] {
        relay.wait_for_state(name, "running").await;
    }
    (world, relay)
}

/// Of three pipelines only the one with rows in the writer starts again.
async fn only_lower_starts_again(world: World, relay: Relay, mut rows: Vec<Committed>) {
    rows.extend(publish(&world, "upper", true, 20).await);
    rows.extend(publish(&world, "upper", false, 20).await);
    rows.extend(publish(&world, "lower", false, 20).await);
    rows.extend(publish(&world, "idle", false, 20).await);
    let verdict = world.judge(&rows).await;
    assert!(verdict.is_clean(), "{verdict:#?}");
    let of = |name| restarts_of_reader(&relay, name);
    assert_eq!((of("lower"), of("upper"), of("idle")), (1, 0, 0));
    assert_eq!(restarts(&relay, "outbox_reader", "rows_lost"), 1.0);
    assert_eq!(all_restarts(&relay), 2.0);
    assert_eq!(relay.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_panics_harms_those_with_rows_in_it() {
    scenario(3 * PATIENCE, async {
        let (world, relay) = halves("shard_writer.CallDone=1").await;
        let rows = publish(&world, "lower", false, 1).await;
        until("it is started again", PATIENCE, || {
            restarts(&relay, "shard_writer", "panic") == 1.0
        })
        .await;
        only_lower_starts_again(world, relay, rows).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_is_stuck_harms_those_with_rows_in_it() {
    scenario(3 * PATIENCE, async {
        // A call fails; the timer of the next one is forgotten.
        let (world, relay) = halves("shard_writer.timer=1:forget").await;
        let fails = CallFault::internal_failure(Applied::Never);
        let faults = world.emulator.faults();
        faults.inject(Operation::PutRecords, Often::Always, fails);
        let rows = publish(&world, "lower", false, 1).await;
        until("its timer is forgotten", PATIENCE, || {
            relay.log_lines(&["calls fail"]) == 1
        })
        .await;
        faults.heal();
        until("it is replaced", PATIENCE, || {
            restarts(&relay, "shard_writer", "stuck") == 1.0
        })
        .await;
        only_lower_starts_again(world, relay, rows).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_panics_harms_those_with_rows_in_it_or_its_writers() {
    scenario(3 * PATIENCE, async {
        let (world, relay) = halves("stream_router.Batch=1").await;
        let rows = publish(&world, "lower", false, 1).await;
        until("it is started again", PATIENCE, || {
            restarts(&relay, "stream_router", "panic") == 1.0
        })
        .await;
        only_lower_starts_again(world, relay, rows).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_panics_harms_nobody_else() {
    scenario(3 * PATIENCE, async {
        let (world, relay) = halves("outbox_reader.Outcomes=1").await;
        let mut rows = publish(&world, "lower", false, 1).await;
        until("it is started again", PATIENCE, || {
            restarts(&relay, "outbox_reader", "panic") == 1.0
        })
        .await;
        rows.extend(publish(&world, "upper", false, 20).await);
        rows.extend(publish(&world, "lower", true, 20).await);
        rows.extend(publish(&world, "idle", true, 20).await);
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(restarts_of_reader(&relay, "lower"), 1);
        assert_eq!(all_restarts(&relay), 1.0);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
