//! A panic in any actor at any message: it is restarted, nothing is lost, order
//! stays.
//!
//! Where actors can be made to panic is read from their source, so that a point
//! without a test here is a failure.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tidegate::core::shard_map::HashRange;
use tidegate::demo::faults::Refused;
use tidegate::demo::load::OutboxLoad;
use tokio::time::Instant;

use crate::relay::Relay;
use crate::resharding::until_followed;
use crate::scenario::{PATIENCE, scenario, until};
use crate::shards::Shards;
use crate::stream_states::PUT_ONLY;
use crate::world::{STREAM, World};

/// A point where an actor panics, and at which pass.
pub(crate) type Panic = (&'static str, u64);

// Each panic of an actor doubles the pause before its next start, so there are
// several runs.
const READER: [Panic; 4] = [
    ("outbox_reader.Done", 20),
    ("outbox_reader.Outcomes", 40),
    ("outbox_reader.Wake", 30),
    ("outbox_reader.NothingNew", 1),
];
const READER_SELDOM: [Panic; 6] = [
    ("shard_writer.CallDone", 20),
    ("outbox_reader.FlowBecameVoid", 1),
    ("probe.Watch", 30),
    ("outbox_reader.ProbeReady", 1),
    ("probe.Answered", 300),
    ("outbox_reader.Drain", 1),
];
const ROUTER: [Panic; 5] = [
    ("stream_router.WriterReady", 2),
    ("stream_router.Batch", 30),
    ("stream_router.Examined", 3),
    ("stream_router.PurgeVoid", 1),
    ("stream_router.UnexpectedShard", 1),
];
const WRITER: [Panic; 4] = [
    ("shard_writer.Batch", 25),
    ("stream_router.WriterGone", 1),
    ("shard_writer.CallDone", 60),
    ("shard_writer.PurgeVoid", 1),
];
const SUPERVISOR: [Panic; 6] = [
    ("supervisor.StreamChanged", 1),
    ("supervisor.ClaimDone", 1),
    ("supervisor.CatalogRead", 3),
    ("supervisor.BeatAnswered", 2),
    ("supervisor.SharesWritten", 1),
    ("supervisor.Tick", 40),
];

/// While the shards change. The writer's end is a hand-over, too, so the router's
/// point is passed at the second one.
const RESHARD: [Panic; 3] = [
    ("shard_writer.GiveBack", 1),
    ("outbox_reader.ShardsChanged", 1),
    ("stream_router.GivenBack", 1),
];
const RESHARD_SUPERVISOR: [Panic; 1] = [("supervisor.ShardRetired", 1)];

/// While the stream is missing, twice.
const MISSING: [Panic; 3] = [
    ("stream_router.CallRefused", 1),
    ("shard_writer.Orders", 1),
    ("outbox_reader.StreamStopped", 1),
];
/// While shards are learnt.
const LEARNING: [Panic; 1] = [("stream_router.WentTo", 3)];

/// While a pipeline is handed over and its shards are full, twice.
const RECALL: [Panic; 2] = [("stream_router.Recall", 1), ("shard_writer.Recall", 1)];

/// While rows are to be sent again.
const RESEND: [Panic; 1] = [("outbox_reader.LookForResends", 1)];

/// The supervisor dies of the word that another actor did.
const BOTH: [Panic; 2] = [("shard_writer.CallDone", 20), ("supervisor.ChildExited", 1)];

/// A relay whose actors fail, under a load.
struct Run {
    world: World,
    relay: Relay,
    load: tidegate::demo::load::Load,
}

impl Run {
    async fn start(panics: &[Panic], how: &str) -> Self {
        Self::start_with(panics, how, &[]).await
    }

    async fn start_with(panics: &[Panic], how: &str, more: &[(&str, &str)]) -> Self {
        let world = World::new(2).await;
        world.emulator.faults().account().allow_only_puts(PUT_ONLY);
        world.pipeline("events", json!({})).await;
        // Its reader is told that there is nothing new.
        world.pipeline("idle", json!({})).await;
        let armed: Vec<String> = panics
            .iter()
            .map(|(point, pass)| format!("{point}={pass}:{how}"))
            .collect();
        let armed = armed.join(",");
        let mut settings = vec![("TIDEGATE_TEST_FAULTS", armed.as_str())];
        settings.extend(more);
        let relay = world.relay_with(&settings).await;
        let load = world
            .load(
                vec![OutboxLoad {
                    rows_per_second: Some(150.0),
                    ..OutboxLoad::new("events")
                }],
                14,
            )
            .await;
        Self { world, relay, load }
    }

    fn has_panicked(&self, point: &str) -> bool {
        let text = format!("a test asked for a panic at {point}");
        let log = self.relay.log();
        log.lines().any(|line| {
            let rest = line.split_once(&text).map(|(_, rest)| rest);
            rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
        })
    }

    async fn wait_for(&self, point: &str) {
        let what = format!("a panic at {point}");
        until(&what, PATIENCE, || self.has_panicked(point)).await;
    }

    /// Gives the pipeline new definitions until there is a panic: its reader drains
    /// and starts again, if it was running just then.
    async fn redefine_until(&self, point: &str) {
        for turn in 0..30 {
            let more = json!({"on_missing": {"default": format!("turn {turn}")}});
            self.world.set_pipeline("events", "events", more).await;
            let enough = Instant::now() + Duration::from_secs(3);
            while Instant::now() < enough {
                if self.has_panicked(point) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.wait_for(point).await;
    }

    async fn split_first_shard(&self) {
        Shards::of(&self.world).await.split(0).await;
    }

    /// Splits shards, which only the records that go elsewhere tell of, until there
    /// is a panic.
    async fn split_until(&self, point: &str) {
        for _ in 0..6 {
            self.split_first_shard().await;
            let enough = Instant::now() + PATIENCE / 4;
            while Instant::now() < enough {
                if self.has_panicked(point) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        panic!("no panic at {point}");
    }

    /// Every one of these points was passed, every restart is in the metrics, and
    /// no row was lost or came out of order.
    async fn finish(self, panics: &[Panic]) {
        for (point, _) in panics {
            self.wait_for(point).await;
        }
        // What comes after the last panic has to flow too.
        let published = self.load.published();
        self.load
            .wait_until_published(published + 100, PATIENCE)
            .await
            .expect("rows");
        self.world.settle(self.load).await;
        let actors: BTreeSet<&str> = panics.iter().map(|(point, _)| actor_of(point)).collect();
        for actor in actors {
            let expected = panics
                .iter()
                .filter(|(point, _)| actor_of(point) == actor)
                .count();
            #[expect(clippy::cast_precision_loss, reason = "a handful")]
            let expected = expected as f64;
            assert_eq!(self.relay.panics(actor), expected, "restarts of {actor}");
        }
        assert_eq!(self.relay.state("events"), "running");
        assert_eq!(self.relay.terminate().await, 0);
    }
}

fn actor_of(point: &str) -> &str {
    point.split('.').next().unwrap_or(point)
}

/// What is reached by a reload alone is tested with them.
fn of_reloads() -> impl Iterator<Item = String> {
    let tests = include_str!("../reload/panics.rs");
    let list = tests.split("const POINTS").nth(1).unwrap_or("");
    let list = list.split_once(";\n").map_or("", |(list, _)| list);
    let names = list.split('"').skip(1).step_by(2).map(str::to_owned);
    names.chain([String::from("supervisor.Reload")])
}

#[test]
fn every_point_of_panic_is_tested() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/actors")];
    let mut points = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the actors") {
            let path = entry.expect("a file").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(path).expect("a source file");
            let calls = text.split("fault::point(\"").skip(1);
            points.extend(calls.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
    let all = [
        &READER[..],
        &READER_SELDOM,
        &ROUTER,
        &WRITER,
        &SUPERVISOR,
        &RESHARD,
        &RESHARD_SUPERVISOR,
        &MISSING,
        &LEARNING,
        &RECALL,
        &RESEND,
        &BOTH,
        &crate::retention::PANICS,
        &crate::running::PANICS,
    ]
    .concat();
    let tested = all.iter().map(|(point, _)| (*point).to_owned());
    let tested: BTreeSet<String> = tested.chain(of_reloads()).collect();
    assert!(!points.is_empty());
    assert_eq!(points, tested);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_panics_is_restarted() {
    scenario(2 * PATIENCE, async {
        let run = Run::start(&READER, "panic").await;
        run.finish(&READER).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_panics_at_what_happens_seldom_is_restarted() {
    scenario(2 * PATIENCE, async {
        let run = Run::start(&READER_SELDOM, "panic").await;
        run.wait_for("outbox_reader.FlowBecameVoid").await;
        run.wait_for("outbox_reader.ProbeReady").await;
        run.redefine_until("outbox_reader.Drain").await;
        run.finish(&READER_SELDOM).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_panics_is_restarted() {
    scenario(2 * PATIENCE, async {
        let run = Run::start(&ROUTER, "panic").await;
        run.wait_for("stream_router.Batch").await;
        run.wait_for("stream_router.Examined").await;
        run.redefine_until("stream_router.PurgeVoid").await;
        until("the router is ready for the fourth time", PATIENCE, || {
            run.relay.log_lines(&["the stream is ready"]) == 4
        })
        .await;
        // Nobody tells the relay of the split: a record goes elsewhere.
        run.split_first_shard().await;
        run.finish(&ROUTER).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn actors_that_panic_while_shards_change_are_restarted() {
    scenario(3 * PATIENCE, async {
        let run = Run::start(&RESHARD, "panic").await;
        run.world.wait_until_received(100).await;
        for (point, _) in RESHARD {
            run.split_until(point).await;
        }
        let shards = Shards::of(&run.world).await;
        until_followed(&run.relay, &shards).await;
        run.finish(&RESHARD).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_panics_while_shards_change_is_restarted() {
    scenario(2 * PATIENCE, async {
        let run = Run::start(&RESHARD_SUPERVISOR, "panic").await;
        run.world.wait_until_received(100).await;
        run.split_until("supervisor.ShardRetired").await;
        run.finish(&RESHARD_SUPERVISOR).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn actors_that_panic_while_the_stream_is_missing_are_restarted() {
    scenario(3 * PATIENCE, async {
        let run = Run::start(&MISSING, "panic").await;
        let faults = run.world.emulator.faults();
        // Readers are stopped by the router's end already.
        for point in ["stream_router.CallRefused", "shard_writer.Orders"] {
            let received = run.world.consumer.received();
            run.world.wait_until_received(received + 100).await;
            faults.hide_stream(STREAM);
            run.wait_for(point).await;
            faults.show_stream(STREAM);
        }
        run.finish(&MISSING).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_panics_while_it_learns_is_restarted() {
    scenario(2 * PATIENCE, async {
        let put_only = [("AWS_ACCESS_KEY_ID", PUT_ONLY)];
        let run = Run::start_with(&LEARNING, "panic", &put_only).await;
        run.finish(&LEARNING).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn actors_that_panic_while_rows_are_recalled_are_restarted() {
    scenario(3 * PATIENCE, async {
        let run = Run::start(&RECALL, "panic").await;
        run.world.wait_until_received(100).await;
        let faults = run.world.emulator.faults();
        for (point, _) in RECALL {
            faults.refuse(Refused::Range(HashRange::ALL));
            until("rows wait", PATIENCE, || {
                run.relay.metric("tidegate_shard_queued_rows", &[]) > 0.0
            })
            .await;
            let pause = "SELECT tide.relay_pause('pipeline', 'events')";
            run.world.sql(pause).await;
            run.wait_for(point).await;
            faults.admit_all();
            let resume = "SELECT tide.relay_resume('pipeline', 'events')";
            run.world.sql(resume).await;
            let received = run.world.consumer.received();
            run.world.wait_until_received(received + 50).await;
        }
        run.finish(&RECALL).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_panics_before_rows_are_sent_again_is_restarted_and_sends_them() {
    scenario(2 * PATIENCE, async {
        let run = Run::start(&RESEND, "panic").await;
        run.world.wait_until_received(100).await;
        let replay =
            "SELECT tide.relay_replay('events', min(id), min(id) + 49) FROM tide.outbox_message";
        run.world.sql(replay).await;
        run.wait_for("outbox_reader.LookForResends").await;
        // The reader that is started in its place looks by itself.
        let deadline = Instant::now() + PATIENCE;
        let sent =
            "SELECT coalesce(max(sent), 0)::bigint FROM tide.relay_replay WHERE state = 'done'";
        while run.world.number(sent).await == 0 {
            assert!(Instant::now() < deadline, "the rows are not sent again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let report = run.load.stop().await.expect("the books");
        crate::replay::check(&run.world, &report.rows()).await;
        assert_eq!(run.relay.panics("outbox_reader"), 1.0);
        assert_eq!(run.relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_panics_is_restarted() {
    scenario(2 * PATIENCE, async {
        let run = Run::start(&WRITER, "panic").await;
        run.finish(&WRITER).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_panics_is_restarted() {
    scenario(2 * PATIENCE, async {
        let run = Run::start(&SUPERVISOR, "panic").await;
        run.finish(&SUPERVISOR).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_dies_with_another_actor_is_restarted() {
    scenario(2 * PATIENCE, async {
        let run = Run::start(&BOTH, "panic").await;
        for (point, _) in BOTH {
            run.wait_for(point).await;
        }
        let published = run.load.published();
        run.load
            .wait_until_published(published + 100, PATIENCE)
            .await
            .expect("rows");
        run.world.settle(run.load).await;
        assert_eq!(run.relay.panics("supervisor"), 1.0);
        assert_eq!(run.relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_blocks_its_thread_is_replaced() {
    scenario(2 * PATIENCE, async {
        let Run { world, relay, load } = Run::start(&[("shard_writer.Batch", 30)], "block").await;
        let stuck = [("actor", "stage"), ("cause", "stuck")];
        until("the thread is replaced", PATIENCE, || {
            assert_eq!(relay.get("/livez").expect("an answer").0, 200);
            relay.metric("tidegate_actor_restarts_total", &stuck) == 1.0
        })
        .await;
        world.settle(load).await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
