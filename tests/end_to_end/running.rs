//! `tidegate run` as an operator meets it: exit codes and signals.

use std::time::Duration;

use serde_json::json;
use tidegate::demo::faults::Operation;
use tidegate::demo::load::OutboxLoad;
use tokio::time::Instant;

use crate::relay::program;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

/// Where a reader panics that is cut off.
pub(crate) const PANICS: [(&str, u64); 1] = [("outbox_reader.GiveUp", 1)];

#[test]
fn a_bad_configuration_is_refused_with_every_mistake_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tidegate.toml");
    let text = "[cluster]\nlease = 5\n[limits]\nmemory = \"a lot\"\n[nonsense]\nkey = 1\n";
    std::fs::write(&file, text).expect("written");
    let environment = [
        ("TIDEGATE__ADMIN__LISTEN", "here"),
        ("TIDEGATE__PROBE__PACE", "1s"),
        ("TIDEGATE_CONFIG", file.to_str().expect("a path")),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let output = program(&environment).arg("run").output().expect("an end");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    let mistakes = [
        "cluster.lease",
        "limits.memory",
        "nonsense",
        "admin.listen",
        "probe.pace",
        "DATABASE_URL",
    ];
    for mistake in mistakes {
        assert!(said.contains(mistake), "no {mistake} in:\n{said}");
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for arguments in [&["run", "--fast"][..], &["relay"], &[]] {
        let output = program(&[]).args(arguments).output().expect("an end");
        assert_eq!(output.status.code(), Some(64), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drained_relays_repeat_nothing() {
    scenario(2 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        let load = OutboxLoad {
            workers: 4,
            rows_per_second: Some(200.0),
            ..OutboxLoad::new("events")
        };
        let load = world.load(vec![load], 23).await;
        for _ in 0..4 {
            let relay = world.relay().await;
            let received = world.consumer.received();
            world.wait_until_received(received + 60).await;
            assert_eq!(relay.terminate().await, 0);
        }
        let relay = world.relay().await;
        let (_, verdict) = world.settle(load).await;
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// Of no call it is known what became of it: a drain waits for that. (What is refused
/// for certain is left to the next owner.)
async fn world_of_silence() -> World {
    let world = World::new(1).await;
    world.pipeline("events", json!({})).await;
    world.answer_no_puts();
    world
}

async fn wait_for_a_call(world: &World) {
    until("a call is not answered", PATIENCE, || {
        world.emulator.tally().calls(Operation::PutRecords) > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_drain_at_once() {
    scenario(2 * PATIENCE, async {
        let world = world_of_silence().await;
        let rows = world.publish_many("events", 50, 10, 10).await;
        let relay = world.relay().await;
        wait_for_a_call(&world).await;
        relay.signal("TERM");
        until("it drains", PATIENCE, || {
            relay.status()["phase"] == "draining"
        })
        .await;
        assert_eq!(relay.get("/readyz").expect("an answer").0, 503);
        let asked = Instant::now();
        relay.signal("TERM");
        assert_eq!(relay.exit_code(PATIENCE).await, 1);
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");

        world.emulator.faults().heal();
        let relay = world.relay().await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_when_its_grace_is_over() {
    scenario(2 * PATIENCE, async {
        let world = world_of_silence().await;
        let rows = world.publish_many("events", 50, 10, 10).await;
        let short = [("TIDEGATE__LIMITS__DRAIN_GRACE", "1s")];
        let relay = world.relay_with(&short).await;
        wait_for_a_call(&world).await;
        let asked = Instant::now();
        relay.signal("TERM");
        let what = "it gives up";
        until(what, PATIENCE, || {
            relay.log_lines(&["the grace is over"]) > 0
        })
        .await;
        assert_eq!(relay.exit_code(PATIENCE).await, 0);
        let took = asked.elapsed();
        let grace = Duration::from_secs(1);
        assert!(took >= grace && took < 5 * grace, "{took:?}");

        world.emulator.faults().heal();
        let relay = world.relay().await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_panics_while_it_drains_still_ends() {
    scenario(2 * PATIENCE, async {
        let world = world_of_silence().await;
        let rows = world.publish_many("events", 50, 10, 10).await;
        let settings = [
            ("TIDEGATE_TEST_FAULTS", "supervisor.Tick=60"),
            ("TIDEGATE__LIMITS__DRAIN_GRACE", "10m"),
        ];
        let relay = world.relay_with(&settings).await;
        wait_for_a_call(&world).await;
        relay.signal("TERM");
        until("it drains", PATIENCE, || relay.log_lines(&["draining"]) > 0).await;
        assert_eq!(relay.log_lines(&["asked for a panic"]), 0, "too early");
        assert_eq!(relay.exit_code(PATIENCE).await, 1);

        world.emulator.faults().heal();
        let relay = world.relay().await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// Its lease is given back all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_panics_when_it_is_cut_off_holds_no_drain() {
    scenario(2 * PATIENCE, async {
        let world = world_of_silence().await;
        let rows = world.publish_many("events", 50, 10, 10).await;
        let fault = PANICS.map(|(point, pass)| format!("{point}={pass}"))[0].clone();
        let settings = [
            ("TIDEGATE_TEST_FAULTS", fault.as_str()),
            ("TIDEGATE__LIMITS__DRAIN_GRACE", "500ms"),
            ("TIDEGATE__CLUSTER__LEASE", "1h"),
        ];
        let mut relay = world.relay_with(&settings).await;
        wait_for_a_call(&world).await;
        relay.signal("TERM");
        assert_eq!(relay.end(PATIENCE).await, 0);
        let words = ["the drain was cut off", "it panicked"];
        assert_eq!(relay.log_lines(&words), 1, "{}", relay.log());

        world.emulator.faults().heal();
        let relay = world.relay().await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
