//! Rows that cannot be sent become dead letters: they alone, or with what follows
//! of their key; all else arrives in order, and the books balance.

use std::collections::HashSet;

use serde_json::json;
use tidegate::demo::delivered::Delivered;
use tidegate::demo::verdict::Committed;

use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

const ROWS: usize = 10_000;
const KEYS: usize = 50;

/// The row that is spoilt, by place.
const BAD: usize = 5_000;

/// How a row is spoilt, and the code of the reason. The stream says it takes
/// 2 MiB; the emulator takes 1.
const TOO_LARGE: (&str, &str) = (
    "jsonb_build_object('text', repeat('x', 3000000))",
    "record_too_large",
);
const REFUSED: (&str, &str) = (
    "jsonb_build_object('text', repeat('x', 1200000))",
    "record_rejected",
);

struct Case {
    name: &'static str,
    policy: &'static str,
    spoilt: (&'static str, &'static str),
}

const CASES: [Case; 4] = [
    Case {
        name: "park-large",
        policy: "park",
        spoilt: TOO_LARGE,
    },
    Case {
        name: "park-refused",
        policy: "park",
        spoilt: REFUSED,
    },
    Case {
        name: "block-large",
        policy: "block_key",
        spoilt: TOO_LARGE,
    },
    Case {
        name: "block-refused",
        policy: "block_key",
        spoilt: REFUSED,
    },
];

async fn world() -> World {
    let world = World::new(2).await;
    let faults = world.emulator.faults();
    faults.describe_as("MaxRecordSizeInKiB", json!(2048));
    world
}

/// Ten thousand rows of which one cannot be sent.
async fn publish(world: &World, case: &Case) -> Vec<Committed> {
    let more = json!({"on_poison": case.policy});
    world.outbox(case.name).await;
    let rows = world.publish_many(case.name, ROWS, KEYS, 20).await;
    let (payload, id) = (case.spoilt.0, rows[BAD].id);
    world
        .sql(&format!(
            "UPDATE tide.outbox_message SET payload = {payload} WHERE id = {id}"
        ))
        .await;
    world.set_pipeline(case.name, case.name, more).await;
    rows
}

async fn letters(world: &World, pipeline: &str, condition: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) FROM tide.relay_dead_letter WHERE pipeline = '{pipeline}' AND {condition}"
    );
    world.number(&sql).await
}

async fn wait_for_letters(world: &World, pipeline: &str, condition: &str, expected: usize) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = letters(world, pipeline, condition).await;
        if found == i64::try_from(expected).expect("few") {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{pipeline}: {found} letters with {condition}, not {expected}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Read = delivered + parked + in flight + returned, by the relay's own metrics.
async fn books_balance(relay: &Relay, pipeline: &str, read: usize) {
    let of = [("pipeline", pipeline)];
    let read = read as f64;
    until(
        &format!("the books of {pipeline} balance"),
        PATIENCE,
        || {
            let sum = relay.metric("tidegate_rows_delivered_total", &of)
                + relay.metric("tidegate_rows_parked_total", &of)
                + relay.metric("tidegate_in_flight_rows", &of)
                + relay.metric("tidegate_rows_returned_total", &of);
            relay.metric("tidegate_rows_read_total", &of) == read
                && sum == read
                && relay.metric("tidegate_in_flight_rows", &of) == 0.0
        },
    )
    .await;
}

/// What is not to arrive under a policy.
fn parked(case: &Case, rows: &[Committed]) -> HashSet<i64> {
    let bad = &rows[BAD];
    let blocks = case.policy == "block_key";
    let behind = rows[BAD..]
        .iter()
        .filter(|row| blocks && row.key == bad.key);
    behind.map(|row| row.id).chain([bad.id]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_row_in_ten_thousand_is_parked_as_the_policy_says() {
    scenario(4 * PATIENCE, async {
        let world = world().await;
        let mut expected = Vec::new();
        let mut of_case = Vec::new();
        for case in &CASES {
            let rows = publish(&world, case).await;
            let parked = parked(case, &rows);
            expected.extend(rows.iter().filter(|row| !parked.contains(&row.id)).cloned());
            of_case.push((case, rows, parked));
        }
        let relay = world.relay().await;
        for (case, rows, parked) in &of_case {
            let reason = format!("state = 'parked' AND reason = '{}' AND row_id = {}", case.spoilt.1, rows[BAD].id);
            wait_for_letters(&world, case.name, &reason, 1).await;
            wait_for_letters(&world, case.name, "state = 'waiting'", parked.len() - 1).await;
        }
        let verdict = world.judge(&expected).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        for (case, rows, parked) in &of_case {
            books_balance(&relay, case.name, ROWS).await;
            let labels = [("pipeline", case.name), ("reason", case.spoilt.1)];
            assert_eq!(relay.metric("tidegate_rows_parked_total", &labels), 1.0);
            let copied = format!(
                "SELECT count(*) FROM tide.relay_dead_letter AS d JOIN tide.outbox_message AS m
                    ON (m.outbox_id, m.id, m.payload, m.headers, m.created_at, m.dedup_key)
                        = (d.outbox_id, d.row_id, d.payload, d.headers, d.created_at, d.partition_key)
                WHERE d.pipeline = '{}'", case.name);
            assert_eq!(world.number(&copied).await, i64::try_from(parked.len()).expect("few"));
            until("the letters are shown", PATIENCE, || {
                relay.pipeline(case.name)["dead_letters_open"] == parked.len()
                    && relay.metric("tidegate_dead_letters_open", &[("pipeline", case.name)]) == parked.len() as f64
            })
            .await;
            let _ = rows;
        }
        assert_eq!(relay.terminate().await, 0);

        // A blocked key stays blocked over a restart, and others flow.
        let relay = world.relay().await;
        for (case, rows, parked) in &of_case {
            let key = rows[BAD].key.clone().expect("a key");
            world.publish(case.name, &key, json!({"n": 20_000})).await;
            let other = world.publish(case.name, "another", json!({"n": 20_001})).await;
            expected.push(Committed { outbox: case.name.into(), id: other, key: Some("another".into()), order: Some(1) });
            if case.policy == "block_key" {
                wait_for_letters(&world, case.name, "state = 'waiting'", parked.len()).await;
            } else {
                let last = format!("SELECT max(id) FROM tide.outbox_message WHERE dedup_key = '{key}' AND id < {other}");
                let id = world.number(&last).await;
                expected.push(Committed { outbox: case.name.into(), id, key: Some(key), order: Some(id.unsigned_abs()) });
            }
        }
        let verdict = world.judge(&expected).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_a_variable_is_parked_or_takes_the_default() {
    scenario(2 * PATIENCE, async {
        let world = world().await;
        let template = "{payload.customer}";
        world
            .pipeline("park", json!({"partition_key": template}))
            .await;
        let default = json!({"partition_key": template, "on_missing": {"default": "nobody"}});
        world.pipeline("default", default).await;
        let mut expected = Vec::new();
        for outbox in ["park", "default"] {
            for order in 1..=3 {
                let payload = if order == 2 {
                    json!({})
                } else {
                    json!({"customer": "c"})
                };
                let id = world.publish(outbox, "x", payload).await;
                let key = if order == 2 { "nobody" } else { "c" };
                if outbox == "default" || order != 2 {
                    expected.push(Committed {
                        outbox: outbox.into(),
                        id,
                        key: Some(key.into()),
                        order: Some(order),
                    });
                }
            }
        }
        let relay = world.relay().await;
        wait_for_letters(
            &world,
            "park",
            "reason = 'variable_missing' AND partition_key IS NULL",
            1,
        )
        .await;
        let verdict = world.judge(&expected).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(letters(&world, "default", "true").await, 0);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_killed_while_it_parks_loses_nothing_and_parks_nothing_twice() {
    scenario(4 * PATIENCE, async {
        let world = world().await;
        world.outbox("killed").await;
        let rows = world.publish_many("killed", ROWS, KEYS, 20).await;
        // Every 20th row cannot be sent: its key is too long.
        world
            .sql("UPDATE tide.outbox_message SET dedup_key = repeat('k', 300) WHERE (payload ->> 'n')::int % 20 = 7")
            .await;
        let bad = |row: &&Committed| (row.id - rows[0].id) % 20 == 7;
        let expected: Vec<Committed> = rows.iter().filter(|row| !bad(row)).cloned().collect();
        world.set_pipeline("killed", "killed", json!({})).await;
        for floor in [1, 100, 250] {
            let relay = world.relay().await;
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while letters(&world, "killed", "true").await < floor {
                assert!(tokio::time::Instant::now() < deadline, "nothing is parked");
            }
            relay.kill();
        }
        let relay = world.relay().await;
        wait_for_letters(&world, "killed", "state = 'parked'", ROWS / 20).await;
        world.wait_for(&expected, PATIENCE).await;
        let sent: HashSet<i64> = world.delivered().iter().map(Delivered::event).map(|(_, id)| id).collect();
        let both = rows.iter().filter(bad).filter(|row| sent.contains(&row.id)).count();
        assert_eq!(both, 0, "rows are both parked and delivered");
        let verdict = world.judge(&expected).await;
        let faults = (verdict.lost, verdict.order_violations, verdict.seq_violations, verdict.unknown);
        assert_eq!(faults, (0, 0, 0, 0), "{verdict:#?}");
        let once = letters(&world, "killed", "attempts = 1").await;
        assert_eq!(usize::try_from(once).expect("few"), ROWS / 20, "what has a letter is not parked again");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_row_in_ten_thousand_stops_a_pipeline_that_halts_until_it_is_mended() {
    scenario(4 * PATIENCE, async {
        let world = world().await;
        let case = Case {
            name: "halt-large",
            policy: "halt",
            spoilt: TOO_LARGE,
        };
        let rows = publish(&world, &case).await;
        let relay = world.relay().await;
        relay.wait_for_state(case.name, "blocked").await;
        world.wait_for(&rows[..BAD], PATIENCE).await;
        let bad = rows[BAD].id;
        assert_eq!(relay.pipeline(case.name)["row_id"], bad);
        assert!(
            world.delivered().iter().all(|one| one.id < bad),
            "nothing behind it is sent"
        );
        assert_eq!(letters(&world, case.name, "true").await, 0);
        world
            .sql(&format!(
                "UPDATE tide.outbox_message SET payload = '{{}}' WHERE id = {bad}"
            ))
            .await;
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
