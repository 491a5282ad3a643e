//! Retention while relays work: nothing that somebody still has to deliver goes,
//! everything else does.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::demo::consumer::StreamConsumer;
use tidegate::demo::delivered::Delivered;
use tidegate::demo::load::{KeyOrder, LoadOptions, OutboxLoad};

use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

/// Looks often, deletes little at once: many batches.
const EAGER: [(&str, &str); 3] = [
    ("TIDEGATE__RETENTION__INTERVAL", "100ms"),
    ("TIDEGATE__RETENTION__BATCH_ROWS", "37"),
    ("TIDEGATE__RETENTION__PAUSE", "5ms"),
];

/// A world in which rows are older than their outboxes keep them at once.
async fn world_of_old_rows(shards: u16) -> World {
    let world = World::new(shards).await;
    world
        .sql(
            "ALTER TABLE tide.outbox_message
                ALTER created_at SET DEFAULT clock_timestamp() - interval '25 hours'",
        )
        .await;
    world
}

const KEPT: &str = "SELECT count(*) FROM tide.outbox_message";
const REMOVED: &str = "SELECT coalesce(sum(removed_rows), 0)::bigint FROM tide.outbox_retention";

async fn wait_for_number(world: &World, sql: &str, what: &str, holds: impl Fn(i64) -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let number = world.number(sql).await;
        if holds(number) {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "not in time: {what}, but {number}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn held_by(relay: &Relay) -> Vec<Value> {
    let status = relay.status();
    let outboxes = status["retention"][0]["outboxes"].as_array().cloned();
    let held = outboxes.into_iter().flatten();
    held.flat_map(|outbox| outbox["held_by"].as_array().cloned().unwrap_or_default())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_pipeline_holds_rows_until_it_has_delivered_them() {
    scenario(3 * PATIENCE, async {
        let world = world_of_old_rows(2).await;
        world.pipeline("events", json!({})).await;
        world
            .emulator
            .create_stream("second", 1)
            .await
            .expect("a stream");
        let second = json!({"stream_name": "second"});
        world.set_pipeline("second", "events", second).await;
        world.sql("SELECT tide.relay_disable('second')").await;
        let relay = world.relay_with(&EAGER).await;
        let load = OutboxLoad {
            rows_per_second: Some(200.0),
            ..OutboxLoad::new("events")
        };
        let load = world.load(vec![load], 31).await;
        world.wait_until_received(500).await;
        let holder = [("outbox", "events"), ("pipeline", "second")];
        until("the hold is in the metrics", PATIENCE, || {
            relay.metric("tidegate_retention_held_seconds", &holder) >= 3600.0
        })
        .await;
        until("the hold is in the status", PATIENCE, || {
            held_by(&relay)
                .iter()
                .any(|hold| hold["pipeline"] == "second" && hold["disabled"] == true)
        })
        .await;
        assert_eq!(world.number(REMOVED).await, 0);
        assert!(world.number(KEPT).await >= 500);

        world.sql("SELECT tide.relay_enable('second')").await;
        wait_for_number(&world, REMOVED, "500 rows are removed", |rows| rows >= 500).await;
        let (report, verdict) = world.settle(load).await;
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        wait_for_number(&world, KEPT, "all rows are removed", |rows| rows == 0).await;
        let published = report.committed.len();
        assert_eq!(
            usize::try_from(world.number(REMOVED).await).expect("rows"),
            published
        );
        until("nobody holds rows any more", PATIENCE, || {
            held_by(&relay).is_empty()
                && relay.metric("tidegate_retention_held_seconds", &[]) == 0.0
        })
        .await;
        let of_outbox = [("database", "default"), ("outbox", "events")];
        let counted = relay.metric("tidegate_retention_rows_removed_total", &of_outbox);
        assert_eq!(counted.to_string(), published.to_string());

        let client = world.emulator.client().await.expect("a client");
        let consumer = StreamConsumer::start(client, "second", Duration::from_millis(30));
        let count = u64::try_from(published).expect("rows");
        until("the second stream has all", PATIENCE, || {
            consumer.received() >= count
        })
        .await;
        let arrived = consumer.drain();
        let ids = arrived
            .iter()
            .map(|record| Delivered::parse(record).expect("native").id);
        assert_eq!(ids.collect::<BTreeSet<_>>().len(), published);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// Publishers whose rows become visible in another order than they drew their ids,
/// one transaction open all the time, two relays that are killed again and again.
#[tokio::test(flavor = "multi_thread")]
async fn removals_meet_late_committers_kills_and_a_second_relay() {
    scenario(4 * PATIENCE, async {
        let world = world_of_old_rows(2).await;
        let outboxes = vec![
            OutboxLoad {
                workers: 4,
                rows_per_second: Some(120.0),
                ..OutboxLoad::new("events")
            },
            OutboxLoad {
                workers: 4,
                keys: 2,
                rows_per_second: Some(120.0),
                key_order: KeyOrder::Unlocked,
                ..OutboxLoad::new("racing")
            },
        ];
        for load in &outboxes {
            world.pipeline(&load.outbox, json!({})).await;
        }
        let mut open = world.pool.begin().await.expect("a transaction");
        sqlx::query("SELECT tide.outbox_publish('events', '{}', '{}', 'never')")
            .execute(&mut *open)
            .await
            .expect("published");
        let mut settings = EAGER.to_vec();
        settings.push(("TIDEGATE__CLUSTER__LEASE", "1s"));
        let load = world
            .load_with(LoadOptions {
                hold_open: true,
                ..LoadOptions::new(&world.url, outboxes, 32)
            })
            .await;
        let mut standing = world.relay_with(&settings).await;
        for kill in 0..6 {
            let other = world.relay_with(&settings).await;
            let (removed, received) = (world.number(REMOVED).await, world.consumer.received());
            if kill % 2 == 0 {
                wait_for_number(&world, REMOVED, "more is removed", |rows| rows > removed).await;
            }
            world.wait_until_received(received + 20).await;
            std::mem::replace(&mut standing, other).kill();
        }
        open.rollback().await.expect("rolled back");
        let (report, verdict) = world.settle(load).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        let published = i64::try_from(report.committed.len()).expect("rows");
        wait_for_number(&world, KEPT, "all rows are removed", |rows| rows == 0).await;
        assert_eq!(world.number(REMOVED).await, published);
        assert_eq!(standing.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_from_a_backup_is_refused_and_others_go_on() {
    scenario(2 * PATIENCE, async {
        let world = world_of_old_rows(1).await;
        world.pipeline("events", json!({})).await;
        world.pipeline("other", json!({})).await;
        let mut rows = world.publish_many("events", 100, 10, 10).await;
        let relay = world.relay_with(&EAGER).await;
        world.wait_for(&rows, PATIENCE).await;
        wait_for_number(&world, KEPT, "all rows are removed", |rows| rows == 0).await;
        assert_eq!(relay.terminate().await, 0);
        let backup =
            "UPDATE tide.relay_position SET base = '3:3:', open_windows = '[]', settled_id = 0
            WHERE pipeline = 'events'";
        world.sql(backup).await;
        rows.extend(world.publish_many("events", 10, 10, 10).await);
        rows.extend(world.publish_many("other", 10, 10, 10).await);
        let relay = world.relay_with(&EAGER).await;
        relay.wait_for_state("events", "failed").await;
        let reason = relay.pipeline("events")["reason"].to_string();
        assert!(
            reason.contains("100 so far") && reason.contains("relay_accept_removed"),
            "{reason}"
        );
        world.wait_for(&rows[110..], PATIENCE).await;
        world
            .sql("SELECT tide.relay_accept_removed('events')")
            .await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        // In truth it has delivered what it accepted to miss: so say the books.
        world
            .sql("UPDATE tide.relay_position SET began_after = 0")
            .await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// Where the sweeper panics, and at which pass.
pub(crate) const PANICS: [(&str, u64); 2] = [("retention.Looked", 3), ("retention.Removed", 4)];

#[tokio::test(flavor = "multi_thread")]
async fn a_sweeper_that_panics_is_restarted_and_harms_nobody() {
    scenario(2 * PATIENCE, async {
        let world = world_of_old_rows(1).await;
        world.pipeline("events", json!({})).await;
        let armed = PANICS
            .map(|(point, pass)| format!("{point}={pass}"))
            .join(",");
        let mut settings = EAGER.to_vec();
        settings.push(("TIDEGATE_TEST_FAULTS", &armed));
        let relay = world.relay_with(&settings).await;
        let rows = world.publish_many("events", 400, 10, 10).await;
        until("it has panicked twice", PATIENCE, || {
            relay.panics("retention") >= 2.0
        })
        .await;
        wait_for_number(&world, KEPT, "all rows are removed", |rows| rows == 0).await;
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        let restarts = relay.metric("tidegate_actor_restarts_total", &[]);
        assert_eq!(restarts, 2.0, "others were restarted too");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// A sweeper that forgets to go on gives no sign of life and is replaced.
/// A sweeper that looks so often forgets to go on at this pass of its timer.
async fn stalls_and_is_replaced(interval: &'static str, pass: u32, messages: usize) {
    scenario(3 * PATIENCE, async {
        let world = world_of_old_rows(1).await;
        world.pipeline("events", json!({})).await;
        let armed = format!("retention.timer={pass}:forget");
        let mut settings = EAGER.to_vec();
        settings[0].1 = interval;
        settings.push(("TIDEGATE_TEST_FAULTS", &armed));
        let relay = world.relay_with(&settings).await;
        let rows = world.publish_many("events", messages, 10, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        wait_for_number(&world, KEPT, "all rows are removed", |rows| rows == 0).await;
        let stuck = [("actor", "retention"), ("cause", "stuck")];
        assert_eq!(relay.metric("tidegate_actor_restarts_total", &stuck), 1.0);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweeper_that_stalls_is_replaced() {
    stalls_and_is_replaced("100ms", 2, 200).await;
}

/// It looks once in two seconds and pauses after each of some hundred batches, so
/// that the pause it forgets to end lies between two of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweeper_that_stalls_between_batches_is_replaced() {
    stalls_and_is_replaced("2s", 30, 4000).await;
}
