//! Random actors panic under a load: nothing is lost, the order stays, and whoever
//! has nothing to do with them notices nothing.
//!
//! `CHAOS_SECONDS=60 cargo test --features demo --test supervision chaos -- --nocapture`
//! makes it last longer than the usual 20 s, and prints the figures.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use tidegate::demo::consumer::StreamConsumer;
use tidegate::demo::delivered::{Delivered, EventId};
use tidegate::demo::load::{LoadReport, OutboxLoad};
use tokio::time::Instant;

use crate::relay::Relay;
use crate::restarts::{all_restarts, restarts, restarts_of_reader};
use crate::scenario::{PATIENCE, scenario_alone, until};
use crate::world::World;

/// The stream whose actors are struck while those of another one are watched.
const STRUCK: &str = "struck";

const EVERY_KIND: [&str; 6] = [
    "outbox_reader",
    "stream_router",
    "shard_writer",
    "probe",
    "retention",
    "supervisor",
];

fn chaos_lasts() -> Duration {
    let seconds = std::env::var("CHAOS_SECONDS").ok();
    let seconds = seconds.map(|text| text.parse().expect("CHAOS_SECONDS in seconds"));
    Duration::from_secs(seconds.unwrap_or(20))
}

fn rate(outbox: &str, rows_per_second: f64) -> OutboxLoad {
    OutboxLoad {
        rows_per_second: Some(rows_per_second),
        ..OutboxLoad::new(outbox)
    }
}

/// Times from COMMIT to the first reading of the record, in milliseconds: p50, p99
/// and the longest.
fn latencies(world: &World, report: &LoadReport, outbox: &str) -> [f64; 3] {
    let mut first: HashMap<EventId, Instant> = HashMap::new();
    for arrived in world.arrived() {
        let event = Delivered::parse(&arrived).expect("a native body").event();
        let at = first.entry(event).or_insert(arrived.received_at);
        *at = (*at).min(arrived.received_at);
    }
    let rows = report.committed.iter();
    let mut all: Vec<f64> = rows
        .filter(|committed| *committed.row.outbox == *outbox)
        .map(|committed| {
            let at = first[&(committed.row.outbox.clone(), committed.row.id)];
            let latency = at.saturating_duration_since(committed.commit_sent_at);
            latency.as_secs_f64() * 1000.0
        })
        .collect();
    all.sort_by(f64::total_cmp);
    assert!(!all.is_empty(), "no rows of {outbox}");
    [
        all[all.len() / 2],
        all[all.len() * 99 / 100],
        all[all.len() - 1],
    ]
}

fn say(what: &str, [p50, p99, most]: [f64; 3]) {
    println!("{what}: p50 {p50:.0} ms, p99 {p99:.0} ms, at most {most:.0} ms");
}

/// How long it takes until a row is delivered within a second of its commit.
async fn until_swift(world: &World, outbox: &str) -> (Duration, Vec<i64>) {
    let began = Instant::now();
    let mut ids = Vec::new();
    loop {
        let id = world.publish(outbox, "swift", json!({"n": 1})).await;
        ids.push(id);
        let published = Instant::now();
        loop {
            let delivered = world.delivered();
            if delivered.iter().any(|record| record.event().1 == id) {
                break;
            }
            assert!(began.elapsed() < 2 * PATIENCE, "{outbox} does not recover");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if published.elapsed() < Duration::from_secs(1) {
            return (began.elapsed(), ids);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_loses_nothing_and_is_over_when_it_is_over() {
    let lasts = chaos_lasts();
    scenario_alone(lasts + 6 * PATIENCE, async {
        let world = World::new(2).await;
        for name in ["first", "second"] {
            world.pipeline(name, json!({})).await;
        }
        // Its probe and its sweeper have something to do.
        world.pipeline("swift", json!({})).await;
        let chaos = format!("200:{}", lasts.as_millis());
        let relay = world
            .relay_with(&[
                ("TIDEGATE_TEST_CHAOS", &chaos),
                ("TIDEGATE__RETENTION__INTERVAL", "100ms"),
            ])
            .await;
        let load = world
            .load(vec![rate("first", 150.0), rate("second", 150.0)], 11)
            .await;
        let began = Instant::now();
        tokio::time::sleep_until(began + lasts).await;
        let (published, received) = (load.published(), world.consumer.received());
        let (recovers, swift) = until_swift(&world, "swift").await;
        // The backlog is gone, and what comes is delivered as it comes.
        until("the backlog is gone", 2 * PATIENCE, || {
            let lag = ["first", "second"].map(|name| {
                let shown = relay.pipeline(name);
                let oldest = shown["lag_oldest_seconds"].as_f64();
                // Who does not hold it does not count.
                let oldest = oldest.filter(|_| !shown["epoch"].is_null());
                oldest.unwrap_or(f64::MAX)
            });
            lag.iter().all(|seconds| *seconds < 2.0)
        })
        .await;
        let flat = began.elapsed().saturating_sub(lasts);
        let report = load.stop().await.expect("the books");
        let mut rows = report.rows();
        rows.extend(swift.into_iter().map(|id| tidegate::demo::verdict::Committed {
            outbox: "swift".into(),
            id,
            key: Some("swift".into()),
            order: Some(id.unsigned_abs()),
        }));
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        println!(
            "chaos for {lasts:?}: {} rows, 0 lost, in order, {} sent again; {received} of {published} rows had \
             arrived at its end; a row is delivered within a second {recovers:.1?} later, the backlog is gone after {flat:.1?}",
            rows.len(),
            verdict.duplicates,
        );
        say("its first pipeline", latencies(&world, &report, "first"));
        print_panics(&relay);
        for kind in EVERY_KIND {
            assert!(relay.panics(kind) > 0.0, "no {kind} has panicked");
        }
        assert_eq!(restarts(&relay, "stage", "stuck"), 0.0);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

fn print_panics(relay: &Relay) {
    let panics = EVERY_KIND.map(|kind| format!("{kind} {}", relay.panics(kind)));
    println!("panics: {}", panics.join(", "));
}

/// A load on two streams; answers what the pipeline of the other stream saw.
async fn beside(lasts: Duration, chaos: Option<&str>) -> [f64; 3] {
    let world = World::new(2).await;
    let made = world.emulator.create_stream(STRUCK, 2).await;
    made.expect("another stream");
    world.pipeline("other", json!({})).await;
    world
        .pipeline("harmed", json!({"stream_name": STRUCK}))
        .await;
    let client = world.emulator.client().await.expect("a client");
    let of_struck = StreamConsumer::start(client, STRUCK, Duration::from_millis(30));
    let settings = chaos.map(|chaos| ("TIDEGATE_TEST_CHAOS", chaos));
    let relay = world.relay_with(settings.as_slice()).await;
    for name in ["other", "harmed"] {
        relay.wait_for_state(name, "running").await;
    }
    let load = world
        .load(vec![rate("other", 150.0), rate("harmed", 150.0)], 12)
        .await;
    tokio::time::sleep(lasts).await;
    let report = load.stop().await.expect("the books");
    let of_harmed = report
        .committed
        .iter()
        .filter(|row| &*row.row.outbox == "harmed")
        .count();
    until("all has arrived", 2 * PATIENCE, || {
        of_struck.received() >= of_harmed as u64
    })
    .await;
    // Some of them came twice: until the last one has come.
    let deadline = Instant::now() + 2 * PATIENCE;
    let mut missing = of_harmed;
    let mut seen = std::collections::HashSet::new();
    while missing > 0 {
        let arrived = of_struck.drain();
        for record in &arrived {
            seen.insert(Delivered::parse(record).expect("a native body").event());
        }
        world.has_arrived_elsewhere(arrived);
        missing = of_harmed - seen.len();
        assert!(Instant::now() < deadline, "{missing} rows are missing");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    of_struck
        .wait_until_quiet(of_struck.received(), Duration::from_millis(400), PATIENCE)
        .await;
    world.has_arrived_elsewhere(of_struck.drain());
    let verdict = world.judge(&report.rows()).await;
    assert!(verdict.is_clean(), "{verdict:#?}");
    if chaos.is_some() {
        print_panics(&relay);
        say("the harmed one", latencies(&world, &report, "harmed"));
        for kind in ["outbox_reader", "stream_router", "shard_writer"] {
            assert!(relay.panics(kind) > 0.0, "no {kind} has panicked");
        }
    } else {
        assert_eq!(all_restarts(&relay), 0.0);
    }
    assert_eq!(restarts_of_reader(&relay, "other"), 0);
    assert_eq!(relay.terminate().await, 0);
    latencies(&world, &report, "other")
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_in_one_stream_is_not_noticed_in_another() {
    let lasts = chaos_lasts();
    scenario_alone(2 * lasts + 6 * PATIENCE, async {
        let undisturbed = beside(lasts, None).await;
        let targets = format!("outbox_reader/harmed,stream_router/{STRUCK},shard_writer/{STRUCK}");
        let chaos = format!("200:{}:{targets}", lasts.as_millis());
        let beside_chaos = beside(lasts, Some(&chaos)).await;
        say("undisturbed", undisturbed);
        say("beside chaos", beside_chaos);
        // The machine of a test is busy with others: only what is plainly wrong.
        assert!(
            beside_chaos[1] < undisturbed[1] * 3.0 + 1000.0,
            "{undisturbed:?} became {beside_chaos:?}"
        );
    })
    .await;
}
