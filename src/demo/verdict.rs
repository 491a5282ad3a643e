//! Did everything arrive, once it was committed, in order? A pure check of what
//! consumers read against what the application committed.
//!
//! Rows are told apart by (outbox, id). Rules:
//! - every committed row arrives at least once (`lost`), nothing else does
//!   (`unknown`), and its partition key leads to the shard it came from
//!   (`wrong_shard`) and is the key the application gave (`wrong_key`);
//! - for each (outbox, key) the first occurrences come in the application's order
//!   (`order_violations`), as far as the application knows one;
//! - for each (outbox, key) `seq` rises strictly over first occurrences, and a row
//!   that comes again comes under the same `seq` and event id (`seq_violations`);
//! - a consumer that drops `seq <= last seen of the key` ends with exactly the
//!   committed rows (`consumer_gaps`).
//!
//! The arrivals must be in reading order, parents of a reshard before children, and
//! one pipeline's: two that relay one outbox are two deliveries.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::delivered::{Delivered, EventId};
use crate::core::shard_map::{HashRange, ShardId, hash_key};

/// How many examples of faults a verdict keeps.
const EXAMPLES: usize = 10;

/// A row as the application that committed it knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The outbox.
    pub outbox: Arc<str>,
    /// The id that `outbox_publish` answered.
    pub id: i64,
    /// The partition key it must arrive under; `None` when the application does
    /// not know it (the event id of a row published without a key).
    pub key: Option<Arc<str>>,
    /// Its place among the rows of its key: a row with a lower place comes first.
    /// Rows with the same place, and rows without one, come in any order: their
    /// transactions ran at the same time.
    pub order: Option<u64>,
}

/// What the check found.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Verdict {
    /// Rows the application committed.
    pub published: u64,
    /// Of these, the rows that arrived at least once.
    pub delivered: u64,
    /// Of these, the rows that did not.
    pub lost: u64,
    /// Records beyond the first of their row.
    pub duplicates: u64,
    /// First occurrences that came after one that should have come later.
    pub order_violations: u64,
    /// First occurrences whose `seq` does not rise, and rows that came under two
    /// `seq`s or event ids.
    pub seq_violations: u64,
    /// Rows that arrived and were never committed.
    pub unknown: u64,
    /// Records read from a shard that does not take their key.
    pub wrong_shard: u64,
    /// Records under another key than the application gave, or whose body says so.
    pub wrong_key: u64,
    /// Committed rows that a consumer that drops by `seq` misses, and rows it sees
    /// twice or that were never committed.
    pub consumer_gaps: u64,
    /// The first few faults, in words.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Whether no promise was broken. Duplicates break none.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.lost == 0
            && self.order_violations == 0
            && self.seq_violations == 0
            && self.unknown == 0
            && self.wrong_shard == 0
            && self.wrong_key == 0
            && self.consumer_gaps == 0
    }
}

/// How far the first occurrences of a key have come.
struct Lane {
    /// The highest place so far, and whose it is.
    highest: Option<(u64, i64)>,
    /// The highest `seq` so far, and whose it is.
    highest_seq: Option<(String, i64)>,
}

struct Checker {
    verdict: Verdict,
}

impl Checker {
    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.verdict.examples.len() < EXAMPLES {
            self.verdict.examples.push(text());
        }
    }
}

/// Judges what arrived, in reading order, against what was committed. `ranges` are
/// the hash ranges of the stream's shards, closed ones included; a record from a
/// shard that is not among them is not checked for its shard.
#[must_use]
pub fn judge(
    committed: &[Committed],
    delivered: &[Delivered],
    ranges: &BTreeMap<ShardId, HashRange>,
) -> Verdict {
    let mut checker = Checker {
        verdict: Verdict::default(),
    };
    let known: HashMap<EventId, &Committed> = committed
        .iter()
        .map(|row| ((Arc::clone(&row.outbox), row.id), row))
        .collect();
    checker.verdict.published = known.len() as u64;
    let mut firsts: HashMap<EventId, &Delivered> = HashMap::with_capacity(known.len());
    let mut lanes: HashMap<(Arc<str>, Arc<str>), Lane> = HashMap::new();
    for record in delivered {
        check_place(&mut checker, record, ranges);
        if let Some(first) = firsts.get(&record.event()) {
            checker.verdict.duplicates += 1;
            if first.seq != record.seq || first.event_id != record.event_id {
                checker.verdict.seq_violations += 1;
                checker.example(|| {
                    format!(
                        "row {} of {} came as seq {} (event {}) and again as seq {} (event {})",
                        record.id,
                        record.outbox,
                        first.seq,
                        first.event_id,
                        record.seq,
                        record.event_id
                    )
                });
            }
            continue;
        }
        firsts.insert(record.event(), record);
        let row = known.get(&record.event()).copied();
        check_row(&mut checker, record, row);
        let lane = lanes.entry(record.lane()).or_insert(Lane {
            highest: None,
            highest_seq: None,
        });
        check_order(&mut checker, record, row, lane);
    }
    check_losses(&mut checker, &known, &firsts);
    check_consumer(&mut checker, &known, delivered);
    checker.verdict
}

fn check_place(checker: &mut Checker, record: &Delivered, ranges: &BTreeMap<ShardId, HashRange>) {
    let hash = hash_key(&record.partition_key);
    if ranges
        .get(&record.shard)
        .is_some_and(|range| !range.contains(hash))
    {
        checker.verdict.wrong_shard += 1;
        checker.example(|| {
            format!(
                "key {:?} was read from {}, which does not take it",
                record.partition_key, record.shard
            )
        });
    }
    if record.key != *record.partition_key {
        checker.verdict.wrong_key += 1;
        checker.example(|| {
            format!(
                "row {} of {} says key {:?} and came under {:?}",
                record.id, record.outbox, record.key, record.partition_key
            )
        });
    }
}

fn check_row(checker: &mut Checker, record: &Delivered, row: Option<&Committed>) {
    let Some(row) = row else {
        checker.verdict.unknown += 1;
        checker.example(|| {
            format!(
                "row {} of {} arrived and was never committed",
                record.id, record.outbox
            )
        });
        return;
    };
    if let Some(key) = &row.key
        && *key != record.partition_key
    {
        checker.verdict.wrong_key += 1;
        checker.example(|| {
            format!(
                "row {} of {} belongs under key {key:?} and came under {:?}",
                row.id, row.outbox, record.partition_key
            )
        });
    }
}

fn check_order(
    checker: &mut Checker,
    record: &Delivered,
    row: Option<&Committed>,
    lane: &mut Lane,
) {
    match &lane.highest_seq {
        Some((highest, before)) if record.seq <= *highest => {
            checker.verdict.seq_violations += 1;
            checker.example(|| {
                format!(
                    "key {:?} of {}: row {} with seq {} came after row {before} with seq {highest}",
                    record.partition_key, record.outbox, record.id, record.seq
                )
            });
        }
        Some(_) | None => lane.highest_seq = Some((record.seq.clone(), record.id)),
    }
    let Some(place) = row.and_then(|row| row.order) else {
        return;
    };
    match lane.highest {
        Some((highest, before)) if place < highest => {
            checker.verdict.order_violations += 1;
            checker.example(|| {
                format!(
                    "key {:?} of {}: row {} (place {place}) came after row {before} (place {highest})",
                    record.partition_key, record.outbox, record.id
                )
            });
        }
        Some((highest, _)) if place == highest => {}
        Some(_) | None => lane.highest = Some((place, record.id)),
    }
}

fn check_losses(
    checker: &mut Checker,
    known: &HashMap<EventId, &Committed>,
    firsts: &HashMap<EventId, &Delivered>,
) {
    let mut lost: Vec<&EventId> = known
        .keys()
        .filter(|event| !firsts.contains_key(*event))
        .collect();
    lost.sort_unstable();
    checker.verdict.lost = lost.len() as u64;
    checker.verdict.delivered = checker.verdict.published - checker.verdict.lost;
    for (outbox, id) in lost.into_iter().take(EXAMPLES) {
        checker.example(|| format!("row {id} of {outbox} never arrived"));
    }
}

fn check_consumer(
    checker: &mut Checker,
    known: &HashMap<EventId, &Committed>,
    delivered: &[Delivered],
) {
    let mut consumed = HashSet::with_capacity(known.len());
    for event in consume_by_seq(delivered) {
        let is_new = consumed.insert(event.clone());
        if is_new && known.contains_key(&event) {
            continue;
        }
        checker.verdict.consumer_gaps += 1;
        let (outbox, id) = event;
        checker.example(|| format!("a consumer by seq sees row {id} of {outbox} once too often"));
    }
    let missed = known
        .keys()
        .filter(|event| !consumed.contains(*event))
        .count() as u64;
    checker.verdict.consumer_gaps += missed;
    if missed > 0 {
        checker.example(|| format!("a consumer by seq misses {missed} committed rows"));
    }
}

/// The rows left by the rule consumers are told: of each (outbox, key), drop what
/// has a `seq` not above the last one seen.
#[must_use]
pub fn consume_by_seq(delivered: &[Delivered]) -> Vec<EventId> {
    let mut last_seen: HashMap<(Arc<str>, Arc<str>), &str> = HashMap::new();
    let mut consumed = Vec::new();
    for record in delivered {
        let last = last_seen.entry(record.lane()).or_default();
        if record.seq.as_str() <= *last {
            continue;
        }
        *last = &record.seq;
        consumed.push(record.event());
    }
    consumed
}

#[cfg(test)]
mod tests;
