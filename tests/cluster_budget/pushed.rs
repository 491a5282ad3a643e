//! Shards that are pushed, and what became of it by the emulator's own count.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tidegate::core::shard_map::hash_key;
use tidegate::demo::tally::ShardCounts;
use tidegate::demo::verdict::Committed;
use tokio::time::Instant;

use crate::scenario::{PATIENCE, until};
use crate::world::{STREAM, World};

pub(crate) const SHARDS: u16 = 4;

/// What a shard takes, in records a second. Narrow, so that a machine under load
/// fills four of them. A node sends whole records within each second: of the 98 % that
/// the relays use, 90.16, one node, two and three can use all but a fifth of a percent.
/// (Of a hundred, three nodes would use 32 of 32.67 each. Of a real shard's thousand it
/// hardly matters.)
const SHARD_RECORDS: u32 = 92;

/// Outboxes, each with a pipeline.
pub(crate) const PIPELINES: usize = 12;

/// Keys of each: enough for every shard to have many.
const KEYS: usize = 300;

const ROW_BYTES: i32 = 60;

/// What relays are to know of it.
pub(crate) const NARROW: (&str, &str) =
    ("TIDEGATE__KINESIS__SHARD_BUDGET__RECORDS_PER_SECOND", "92");

/// Has the service refuse what a shard is offered beyond so much in a second, by the
/// service's own seconds.
pub(crate) fn narrow(world: &World) {
    let counts: Mutex<[(u64, u32); SHARDS as usize]> = Mutex::default();
    let began = Instant::now();
    let decide = move |key: &str, _: usize| {
        let place = usize::try_from(hash_key(key) >> 126).expect("a quarter");
        let second = began.elapsed().as_secs();
        let mut counts = counts.lock().expect("not poisoned");
        let (of, count) = &mut counts[place];
        if *of != second {
            (*of, *count) = (second, 0);
        }
        *count += 1;
        (*count > SHARD_RECORDS).then(|| "ProvisionedThroughputExceededException".to_owned())
    };
    world.emulator.faults().fail_records_where(Arc::new(decide));
}

/// A moment, by the emulator's count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    at: Instant,
    counts: ShardCounts,
}

/// What went between two moments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passed {
    pub(crate) seconds: f64,
    pub(crate) offered: u64,
    pub(crate) throttled: u64,
    /// Of what the shards could take.
    pub(crate) used: f64,
}

impl Passed {
    pub(crate) fn throttled_part(&self) -> f64 {
        self.throttled as f64 / (self.offered as f64).max(1.0)
    }
}

impl std::fmt::Display for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.1} s, {:.1} % of the capacity used, {} of {} records throttled",
            self.seconds,
            100.0 * self.used,
            self.throttled,
            self.offered
        )
    }
}

/// Keys, as many of each shard.
fn even_keys() -> Vec<String> {
    let mut of_shard = [0; SHARDS as usize];
    let numbers = (0..).map(|number: u32| format!("k-{number}"));
    let even = numbers.filter(move |key| {
        let place = usize::try_from(hash_key(key) >> 126).expect("a quarter");
        of_shard[place] += 1;
        of_shard[place] <= KEYS / usize::from(SHARDS)
    });
    even.take(KEYS).collect()
}

/// A world whose outboxes have rows for so many seconds of all shards.
pub(crate) async fn backlog(world: &World, seconds: usize) -> Vec<Committed> {
    narrow(world);
    let rows = seconds * usize::from(SHARDS) * SHARD_RECORDS as usize / PIPELINES;
    let keys = even_keys();
    let mut all = Vec::new();
    for n in 0..PIPELINES {
        let name = format!("o{n:02}");
        world.pipeline(&name, json!({})).await;
        let ids: Vec<(i64, String)> = sqlx::query_as(
            "INSERT INTO tide.outbox_message (outbox_id, dedup_key, payload)
            SELECT o.outbox_id, ($3::text[])[1 + n % cardinality($3::text[])],
                jsonb_build_object('n', n, 'text', repeat('x', $4))
            FROM tide.outbox AS o, generate_series(0, $2 - 1) AS n WHERE o.name = $1 ORDER BY n
            RETURNING id, dedup_key",
        )
        .bind(&name)
        .bind(i32::try_from(rows).expect("few"))
        .bind(&keys)
        .bind(ROW_BYTES)
        .fetch_all(&world.pool)
        .await
        .expect("published");
        all.extend(ids.into_iter().map(|(id, key)| Committed {
            outbox: name.as_str().into(),
            id,
            key: Some(key.into()),
            order: Some(id.unsigned_abs()),
        }));
    }
    all
}

pub(crate) fn mark(world: &World) -> Mark {
    Mark {
        at: Instant::now(),
        counts: world.emulator.tally().total(STREAM),
    }
}

pub(crate) fn since(world: &World, before: Mark) -> Passed {
    between(before, mark(world))
}

pub(crate) fn between(before: Mark, after: Mark) -> Passed {
    let seconds = (after.at - before.at).as_secs_f64();
    let accepted = after.counts.accepted_records - before.counts.accepted_records;
    Passed {
        seconds,
        offered: after.counts.offered_records - before.counts.offered_records,
        throttled: after.counts.throttled_records - before.counts.throttled_records,
        used: accepted as f64 / (seconds * f64::from(SHARD_RECORDS) * f64::from(SHARDS)),
    }
}

/// Lets so much be stored as all shards take in this time at full rate.
pub(crate) async fn push(world: &World, time: Duration) -> Passed {
    let before = mark(world);
    let records = time.as_secs_f64() * f64::from(SHARD_RECORDS) * f64::from(SHARDS) * 0.97;
    let tally = world.emulator.tally();
    let stored = || (tally.total(STREAM).accepted_records - before.counts.accepted_records) as f64;
    until("the shards take more", PATIENCE, || stored() >= records).await;
    since(world, before)
}
