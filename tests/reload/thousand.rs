//! A thousand reloads under load: nothing lost, nothing twice, nothing left behind.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::demo::load::OutboxLoad;
use tokio::time::Instant;

use crate::configured::{File, difference, epoch, refuse, series, take};
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario_alone, until};
use crate::world::{STREAM, World};

/// So many kinds of reload follow each other.
const KINDS: usize = 6;
const RELOADS: usize = 1_000;

/// Of so many rounds through all kinds, in two it is waited for what they do.
const AWAITED_EVERY: usize = 12;

/// Which pipelines there are, and how they are.
struct Wanted {
    has_third: bool,
    batch_size: usize,
    on_poison: &'static str,
}

impl Wanted {
    fn configuration(&self, world: &World) -> Value {
        let pipeline = |name: &str| {
            json!({
                "name": name, "outbox": name, "stream_name": STREAM, "region": "us-east-1",
            })
        };
        let mut pipelines = vec![pipeline("stays"), pipeline("changes")];
        pipelines[1]["batch_size"] = self.batch_size.into();
        pipelines[1]["weight"] = (self.batch_size % 10 + 1).into();
        pipelines[1]["on_poison"] = self.on_poison.into();
        if self.has_third {
            pipelines.push(pipeline("comes"));
        }
        json!({
            "databases": [{"name": "default", "url": world.url, "max_connections": 8}],
            "admin": {"listen": "127.0.0.1:0"},
            "cluster": {"lease": "30s"},
            "limits": {"pipeline_rows": 5_000 + self.batch_size},
            "pipelines": pipelines,
        })
    }
}

/// What a process holds.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    connections: i64,
    actors: f64,
    resident: u64,
}

impl Held {
    async fn by(relay: &Relay, world: &World) -> Self {
        let connections = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'tidegate'";
        Self {
            descriptors: relay.descriptors(),
            threads: relay.threads(),
            connections: world.number(connections).await,
            actors: relay.metric("tidegate_actors", &[]),
            resident: relay.resident_bytes(),
        }
    }
}

async fn step(relay: &Relay, file: &File, world: &World, wanted: &mut Wanted, number: usize) {
    let round = number / KINDS;
    // Mostly the next reload comes while the last one is still at work.
    let is_awaited = round % AWAITED_EVERY < 2;
    let before = epoch(relay, "changes");
    match number % KINDS {
        0 => {
            wanted.has_third = true;
            take(relay, file, &wanted.configuration(world)).await;
            if is_awaited {
                relay.wait_for_state("comes", "running").await;
            }
        }
        1 => {
            wanted.batch_size = 50 + number % 450;
            take(relay, file, &wanted.configuration(world)).await;
            let is_in_place = epoch(relay, "changes") == before;
            assert!(is_in_place || !is_awaited, "{before}");
        }
        2 => {
            let policy = ["block_key", "park"][round % 2];
            let is_other = std::mem::replace(&mut wanted.on_poison, policy) != policy;
            take(relay, file, &wanted.configuration(world)).await;
            if is_awaited && is_other {
                until("it has started again", PATIENCE, || {
                    epoch(relay, "changes") > before
                })
                .await;
            }
        }
        3 => {
            let mut broken = wanted.configuration(world);
            broken["pipelines"][1]["batch_size"] = 501.into();
            broken["pipelines"][0]["outbox"] = 7.into();
            let errors = refuse(relay, file, &broken).await;
            assert_eq!(errors.len(), 2, "{errors:#?}");
        }
        4 => {
            wanted.has_third = false;
            take(relay, file, &wanted.configuration(world)).await;
            if is_awaited {
                until("it is gone", PATIENCE, || relay.pipeline("comes").is_null()).await;
            }
        }
        _ => {
            take(relay, file, &wanted.configuration(world)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_reloads_under_load() {
    scenario_alone(5 * PATIENCE, async {
        let world = World::new(2).await;
        world.lost_counters();
        let loads = ["stays", "changes", "comes"].map(|outbox| OutboxLoad {
            rows_per_second: Some(50.0),
            ..OutboxLoad::new(outbox)
        });
        for load in &loads {
            world.outbox(&load.outbox).await;
        }
        let mut wanted = Wanted {
            has_third: true,
            batch_size: 100,
            on_poison: "park",
        };
        let file = File::with(&wanted.configuration(&world));
        let relay = file.relay(&world, &[]).await;
        for pipeline in ["stays", "changes", "comes"] {
            relay.wait_for_state(pipeline, "running").await;
        }
        let load = world.load(loads.to_vec(), 3).await;
        // Once through all kinds, so that each metric has been there.
        for number in 0..2 * KINDS {
            step(&relay, &file, &world, &mut wanted, number).await;
        }
        wanted.has_third = true;
        take(&relay, &file, &wanted.configuration(&world)).await;
        relay.wait_for_state("comes", "running").await;
        let first_epoch = epoch(&relay, "stays");
        let (before, held_before) = (series(&relay), Held::by(&relay, &world).await);
        let began = Instant::now();
        for number in 0..RELOADS {
            step(&relay, &file, &world, &mut wanted, number).await;
        }
        let took = began.elapsed();
        wanted.has_third = true;
        take(&relay, &file, &wanted.configuration(&world)).await;
        relay.wait_for_state("comes", "running").await;
        assert_eq!(epoch(&relay, "stays"), first_epoch, "it was left alone");

        let (report, verdict) = world.settle(load).await;
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        let held = Held::by(&relay, &world).await;
        eprintln!(
            "{RELOADS} reloads in {took:.1?} under load, {} rows: none lost, none twice\n\
             before {held_before:?}\nafter  {held:?}",
            report.rows().len(),
        );
        let restarts = relay.metric("tidegate_actor_restarts_total", &[]);
        assert!(
            restarts.abs() < f64::EPSILON,
            "{restarts} actors ended on their own: {:#?}",
            relay.lines_with(" WARN ")
        );
        let after = series(&relay);
        assert_eq!(before, after, "{}", difference(&before, &after));
        let actors = || relay.metric("tidegate_actors", &[]);
        until("no actor is left over", PATIENCE, || {
            (actors() - held_before.actors).abs() < f64::EPSILON
        })
        .await;
        // A pool may have grown to its 8 connections by now; a leak would be of
        // hundreds.
        assert!(held.connections <= 8, "{held:?}");
        assert!(held.descriptors <= held_before.descriptors + 16, "{held:?}");
        assert!(held.threads <= held_before.threads + 4, "{held:?}");
        let grown = held.resident.saturating_sub(held_before.resident);
        assert!(grown < 32 << 20, "{grown} bytes more");
        assert_eq!(relay.terminate().await, 0);
        assert!(took < Duration::from_secs(150), "{took:?}");
    })
    .await;
}
