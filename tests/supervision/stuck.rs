//! An actor that is stuck is found and replaced: one that keeps its thread busy,
//! and one whose wake-up was lost.

use serde_json::json;
use tidegate::demo::load::OutboxLoad;

use crate::relay::Relay;
use crate::restarts::{all_restarts, restarts};
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

async fn faulty(faults: &str) -> (World, Relay) {
    let world = World::new(2).await;
    world.pipeline("events", json!({})).await;
    let relay = world.relay_with(&[("TIDEGATE_TEST_FAULTS", faults)]).await;
    (world, relay)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_keeps_its_thread_busy_is_replaced() {
    scenario(3 * PATIENCE, async {
        let (world, relay) = faulty("shard_writer.Batch=30:spin").await;
        let load = OutboxLoad {
            rows_per_second: Some(100.0),
            ..OutboxLoad::new("events")
        };
        let load = world.load(vec![load], 3).await;
        until("the thread is replaced", PATIENCE, || {
            assert_eq!(relay.get("/livez").expect("an answer").0, 200);
            restarts(&relay, "stage", "stuck") == 1.0
        })
        .await;
        let published = load.published();
        load.wait_until_published(published + 100, PATIENCE)
            .await
            .expect("rows");
        world.settle(load).await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// Something is forgotten once; the actor that waits for it in vain is replaced,
/// and nobody else is but readers with rows in it.
async fn is_found(faults: &str, actor: &str, most_readers: f64) {
    let (world, relay) = faulty(faults).await;
    let mut rows = Vec::new();
    // In pieces: where one is not enough for the fault to be met.
    for _ in 0..10 {
        let piece = world.publish_many("events", 10, 10, 10).await;
        rows.extend(piece);
        let received = world.consumer.received();
        let met = async { world.wait_until_received(received + 1).await };
        let soon = std::time::Duration::from_millis(700);
        tokio::time::timeout(soon, met).await.ok();
    }
    until("it is replaced", PATIENCE, || {
        restarts(&relay, actor, "stuck") >= 1.0
    })
    .await;
    assert_eq!(
        relay.log_lines(&["gives no sign of life", "Stalled"]),
        1,
        "the log says why"
    );
    let after = world.publish_many("events", 50, 10, 10).await;
    rows.extend(after);
    let verdict = world.judge(&rows).await;
    assert!(verdict.is_clean(), "{verdict:#?}");
    assert_eq!(restarts(&relay, actor, "stuck"), 1.0);
    let readers = restarts(&relay, "outbox_reader", "rows_lost");
    assert!(readers <= most_readers, "{readers} readers lost rows");
    assert_eq!(all_restarts(&relay), 1.0 + readers);
    assert_eq!(relay.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_was_not_told_of_outcomes_is_replaced() {
    scenario(3 * PATIENCE, async {
        is_found("shard_writer.tell=3:forget", "outbox_reader", 0.0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_whose_wish_for_news_is_forgotten_is_replaced() {
    scenario(3 * PATIENCE, async {
        is_found("probe.watched=2:forget", "outbox_reader", 0.0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_forgets_to_ask_is_replaced() {
    scenario(3 * PATIENCE, async {
        is_found("probe.timer=3:forget", "probe", 0.0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_has_missed_a_writer_is_replaced() {
    scenario(3 * PATIENCE, async {
        let (world, relay) = faulty("stream_router.writer=2:forget").await;
        let rows = world.publish_many("events", 50, 20, 10).await;
        until("it is replaced", PATIENCE, || {
            restarts(&relay, "stream_router", "stuck") == 1.0
        })
        .await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(restarts(&relay, "outbox_reader", "rows_lost"), 1.0);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
