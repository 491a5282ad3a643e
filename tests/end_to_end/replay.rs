//! Rows are sent again: beside the live flow, by moving the position back, and
//! over a SIGKILL.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::demo::delivered::Delivered;
use tidegate::demo::load::OutboxLoad;
use tidegate::demo::verdict::Committed;

use crate::relay::program;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

/// What a consumer that drops `seq <= last seen of that key` keeps: how often it
/// takes each row.
fn taken(delivered: &[Delivered]) -> BTreeMap<i64, usize> {
    let mut last_seen: HashMap<Arc<str>, &str> = HashMap::new();
    let mut taken = BTreeMap::new();
    for record in delivered {
        let last = last_seen
            .entry(Arc::clone(&record.partition_key))
            .or_default();
        if record.seq.as_str() > *last {
            *last = &record.seq;
            *taken.entry(record.id).or_default() += 1;
        }
    }
    taken
}

/// Asserts that nothing is lost to a stream's readers, and that first occurrences
/// come in the order of the application.
pub(crate) async fn check(world: &World, rows: &[Committed]) -> Vec<Delivered> {
    let verdict = world.judge(rows).await;
    let delivered = world.delivered();
    assert_eq!(
        (verdict.lost, verdict.unknown, verdict.order_violations),
        (0, 0, 0),
        "{verdict:#?}"
    );
    let taken = taken(&delivered);
    for row in rows {
        assert!(
            taken.contains_key(&row.id),
            "a consumer that drops by seq loses row {}",
            row.id
        );
    }
    let mut ids_of_events: HashMap<&str, i64> = HashMap::new();
    for record in &delivered {
        let id = ids_of_events.entry(&record.event_id).or_insert(record.id);
        assert_eq!(*id, record.id, "an event id is of one row");
    }
    assert_eq!(ids_of_events.len(), rows.len(), "a row has one event id");
    delivered
}

fn replay(world: &World, arguments: &[&str]) -> Output {
    let environment = world.settings(&[]);
    let mut command = program(&environment);
    command.args(["--output", "json", "replay"]).args(arguments);
    command.output().expect("the program runs")
}

fn last_line(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|_| panic!("{output:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_under_load_sends_just_its_range_and_survives_a_kill() {
    scenario(4 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        let before = world.publish_many("events", 6000, 40, 100).await;
        let settings = [
            ("TIDEGATE__CLUSTER__NODE_ID", "the-same"),
            ("TIDEGATE__LIMITS__PIPELINE_ROWS", "400"),
        ];
        let relay = world.relay_with(&settings).await;
        world.wait_for(&before, PATIENCE).await;
        let load = OutboxLoad {
            workers: 3,
            keys: 10,
            rows_per_second: Some(150.0),
            ..OutboxLoad::new("events")
        };
        let load = world.load(vec![load], 5).await;
        let (from, to) = (before[1000].id, before[4999].id);
        let asked = world
            .number(&format!("SELECT tide.relay_replay('events', {from}, {to})"))
            .await;
        let progress = format!("SELECT next_id FROM tide.relay_replay WHERE replay_id = {asked}");
        while world.number(&progress).await < from + 500 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // It is shown once a second.
        until("the replay is shown", PATIENCE, || {
            relay.pipeline("events")["replay"]["to_id"] == to
        })
        .await;
        relay.kill();
        let reached = world.number(&progress).await;
        assert!(reached < to, "it was over before the kill");
        let relay = world.relay_with(&settings).await;
        let done = format!(
            "SELECT count(*) FROM tide.relay_replay WHERE replay_id = {asked} AND state = 'done'"
        );
        while world.number(&done).await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let report = load.stop().await.expect("the books");
        let mut rows = report.rows();
        rows.extend(before.iter().cloned());
        let taken = taken(&check(&world, &rows).await);
        let mut twice: BTreeSet<i64> = taken.keys().copied().collect();
        twice.retain(|id| taken[id] > 1);
        let range: BTreeSet<i64> = before[1000..5000].iter().map(|row| row.id).collect();
        assert_eq!(twice, range, "just the range was sent again");
        let thrice = taken.values().filter(|times| **times > 2).count();
        assert!(
            thrice <= 500,
            "{thrice} rows were sent once more after the kill"
        );

        let labels = [("pipeline", "events")];
        let metric = |name: &str| relay.metric(name, &labels);
        let of_replay = metric("tidegate_rows_resent_total");
        assert!(of_replay > 0.0 && of_replay <= 4000.0, "{of_replay}");
        until("the books balance", PATIENCE, || {
            metric("tidegate_rows_read_total")
                == metric("tidegate_rows_delivered_total")
                    + metric("tidegate_rows_returned_total")
                    + metric("tidegate_in_flight_rows")
        })
        .await;
        assert_eq!(relay.pipeline("events")["replay"], Value::Null);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_under_load_delivers_all_from_its_row_on_again() {
    scenario(4 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        let first = world.publish_many("events", 500, 10, 50).await;
        let second = world.publish_many("events", 500, 10, 50).await;
        let relay = world.relay().await;
        world.wait_for(&second, PATIENCE).await;
        let load = OutboxLoad {
            workers: 3,
            keys: 10,
            rows_per_second: Some(150.0),
            ..OutboxLoad::new("events")
        };
        let load = world.load(vec![load], 6).await;
        world.wait_until_received(1200).await;
        let to = second[100].id;
        let epoch = "SELECT epoch FROM tide.relay_position WHERE pipeline = 'events'";
        let epoch_before = world.number(epoch).await;
        let only_said = format!("SELECT count(*) FROM tide.relay_rewind('events', {to}) AS r WHERE r ->> 'done' = 'false' AND (r ->> 'rows_again')::int >= 500");
        assert_eq!(world.number(&only_said).await, 1);
        assert_eq!(world.number(epoch).await, epoch_before, "it only says so");
        world
            .sql(&format!("SELECT tide.relay_rewind('events', {to}, 'events')"))
            .await;
        let sent_again = |world: &World| {
            let taken = taken(&world.delivered());
            second[100..].iter().all(|row| taken.get(&row.id) == Some(&2))
        };
        until("all is delivered again", PATIENCE, || sent_again(&world)).await;
        assert!(world.number(epoch).await > epoch_before + 1, "it was taken again");
        let report = load.stop().await.expect("the books");
        let mut rows = report.rows();
        rows.extend(first.iter().chain(&second).cloned());
        let taken = taken(&check(&world, &rows).await);
        assert!(first.iter().all(|row| taken[&row.id] == 1));
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_waits_cancels_and_refuses() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let rows = world.publish_many("events", 50, 5, 50).await;
        let (from, to) = (rows[10].id.to_string(), rows[19].id.to_string());
        let range = ["--pipeline", "events", "--from-id", &from, "--to-id", &to];

        let refused = replay(&world, &range);
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            last_line(&refused)["error"]
                .as_str()
                .unwrap()
                .contains("has not delivered anything yet")
        );

        let relay = world.relay().await;
        world.wait_for(&rows, PATIENCE).await;
        until("the position is written", PATIENCE, || {
            relay.pipeline("events")["open_windows"] == 0
        })
        .await;
        let dry = last_line(&replay(&world, &[&range[..], &["--dry-run"]].concat()));
        assert_eq!(
            (dry["rows"].clone(), dry["dry_run"].clone()),
            (json!(10), json!(true))
        );
        assert!(
            dry["seconds_on_one_shard"].as_f64().unwrap() > 0.0 && dry["oldest_at"].is_string()
        );
        assert_eq!(
            world.number("SELECT count(*) FROM tide.relay_replay").await,
            0
        );

        let base = "SELECT pg_snapshot_xmax(base)::text::bigint FROM tide.relay_position";
        let base_before = world.number(base).await;
        let waited = replay(&world, &[&range[..], &["--wait"]].concat());
        assert_eq!(waited.status.code(), Some(0), "{waited:?}");
        let end = last_line(&waited);
        assert_eq!(
            (end["state"].clone(), end["sent"].clone()),
            (json!("done"), json!(10))
        );
        world.wait_until_received(60).await;
        assert_eq!(
            relay.metric("tidegate_rows_resent_total", &[("source", "replay")]),
            10.0
        );
        assert!(
            world.number(base).await >= base_before,
            "the position stays"
        );
        let taken = taken(&check(&world, &rows).await);
        for (place, row) in rows.iter().enumerate() {
            let times = 1 + usize::from((10..20).contains(&place));
            assert_eq!(taken[&row.id], times, "row {}", row.id);
        }

        relay.terminate().await;
        for _ in 0..2 {
            assert_eq!(replay(&world, &range).status.code(), Some(0));
        }
        let cancelled = last_line(&replay(&world, &["--pipeline", "events", "--cancel"]));
        assert_eq!(cancelled["cancelled"], 2);

        world
            .sql(
                "UPDATE tide.outbox_message SET created_at = created_at - interval '25 hours'
                WHERE id <= (SELECT min(id) + 14 FROM tide.outbox_message)",
            )
            .await;
        let relay = world
            .relay_with(&[("TIDEGATE__RETENTION__INTERVAL", "100ms")])
            .await;
        while world
            .number("SELECT count(*) FROM tide.outbox_message")
            .await
            > 35
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(relay.terminate().await, 0);
        let dry = last_line(&replay(&world, &[&range[..], &["--dry-run"]].concat()));
        assert_eq!(
            (dry["rows"].clone(), dry["before_lowest"].clone()),
            (json!(5), json!(true))
        );
        for (arguments, says) in [
            (
                ["--pipeline", "nobody", "--from-id", "1", "--to-id", "9"],
                "pipeline 'nobody' does not exist",
            ),
            (
                [
                    "--pipeline",
                    "events",
                    "--from-id",
                    "1",
                    "--to-id",
                    &rows[9].id.to_string(),
                ],
                "retention has removed",
            ),
            (
                [
                    "--pipeline",
                    "events",
                    "--from-id",
                    "900000",
                    "--to-id",
                    "900001",
                ],
                "has no row from 900000 to 900001",
            ),
            (
                ["--pipeline", "events", "--from-id", "9", "--to-id", "1"],
                "the range from 9 to 1 is not allowed",
            ),
        ] {
            let refused = replay(&world, &arguments);
            assert_eq!(refused.status.code(), Some(1));
            let error = last_line(&refused)["error"].to_string();
            assert!(error.contains(says), "{error} does not say {says:?}");
        }
    })
    .await;
}
