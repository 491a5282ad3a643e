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

use serde::Deserialize;
use serde_json::value::RawValue;

use super::consumer::Arrived;
use crate::core::shard_map::{HashRange, ShardId, hash_key};

/// How many examples of faults a verdict keeps.
const EXAMPLES: usize = 10;

/// A row's outbox and id.
pub type EventId = (Arc<str>, i64);

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

/// A record whose body is a native one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The shard it was read from.
    pub shard: ShardId,
    /// The record's partition key.
    pub partition_key: Arc<str>,
    /// The row's outbox.
    pub outbox: Arc<str>,
    /// The row's id.
    pub id: i64,
    /// The body's `seq`.
    pub seq: String,
    /// The body's `event_id`.
    pub event_id: String,
    /// The body's `key`.
    pub key: String,
    /// The payload's JSON text.
    pub payload: String,
}

/// A record whose data is not a native body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {sequence} of {shard} is not a native body: {reason}")]
pub struct NotNative {
    /// The shard it was read from.
    pub shard: ShardId,
    /// Its sequence number.
    pub sequence: String,
    /// What is wrong with it.
    pub reason: String,
}

#[derive(Deserialize)]
struct NativeBody<'a> {
    id: Id,
    seq: String,
    event_id: String,
    outbox: String,
    key: String,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// Ids are numbers; consumers that cannot hold 64 bits take texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Number(i64),
    Text(String),
}

impl Delivered {
    /// Reads a native body.
    ///
    /// # Errors
    /// [`NotNative`] when the data is not JSON or lacks a field.
    pub fn parse(arrived: &Arrived) -> Result<Self, NotNative> {
        let refused = |reason: String| NotNative {
            shard: arrived.shard.clone(),
            sequence: arrived.sequence.clone(),
            reason,
        };
        let body: NativeBody<'_> =
            serde_json::from_slice(&arrived.data).map_err(|error| refused(error.to_string()))?;
        let id = match body.id {
            Id::Number(id) => id,
            Id::Text(text) => {
                text.parse().map_err(|_| refused(format!("id {text:?} is not a number")))?
            }
        };
        Ok(Self {
            shard: arrived.shard.clone(),
            partition_key: arrived.partition_key.as_str().into(),
            outbox: body.outbox.into(),
            id,
            seq: body.seq,
            event_id: body.event_id,
            key: body.key,
            payload: body.payload.get().to_owned(),
        })
    }

    fn event(&self) -> EventId {
        (Arc::clone(&self.outbox), self.id)
    }

    fn lane(&self) -> (Arc<str>, Arc<str>) {
        (Arc::clone(&self.outbox), Arc::clone(&self.partition_key))
    }
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
    let known: HashMap<EventId, &Committed> =
        committed.iter().map(|row| ((Arc::clone(&row.outbox), row.id), row)).collect();
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
                        record.id, record.outbox, first.seq, first.event_id, record.seq, record.event_id
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
    if ranges.get(&record.shard).is_some_and(|range| !range.contains(hash)) {
        checker.verdict.wrong_shard += 1;
        checker.example(|| {
            format!("key {:?} was read from {}, which does not take it", record.partition_key, record.shard)
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
            format!("row {} of {} arrived and was never committed", record.id, record.outbox)
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
    let mut lost: Vec<&EventId> = known.keys().filter(|event| !firsts.contains_key(*event)).collect();
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
    let missed = known.keys().filter(|event| !consumed.contains(*event)).count() as u64;
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
mod tests {
    use super::*;
    use tokio::time::Instant;

    fn committed(id: i64, key: &str, order: u64) -> Committed {
        Committed { outbox: "events".into(), id, key: Some(key.into()), order: Some(order) }
    }

    fn record(id: i64, key: &str, seq: u64) -> Delivered {
        Delivered {
            shard: "s0".into(),
            partition_key: key.into(),
            outbox: "events".into(),
            id,
            seq: format!("{seq:034}"),
            event_id: format!("event-{id}"),
            key: key.to_owned(),
            payload: "{}".to_owned(),
        }
    }

    fn ranges() -> BTreeMap<ShardId, HashRange> {
        [("s0".into(), HashRange::ALL)].into()
    }

    /// Four rows of two keys, delivered well.
    fn good() -> (Vec<Committed>, Vec<Delivered>) {
        let rows = vec![
            committed(1, "a", 1),
            committed(2, "b", 1),
            committed(3, "a", 2),
            committed(4, "a", 3),
        ];
        let records =
            vec![record(1, "a", 1), record(2, "b", 2), record(3, "a", 3), record(4, "a", 4)];
        (rows, records)
    }

    fn clean(published: u64) -> Verdict {
        Verdict { published, delivered: published, ..Verdict::default() }
    }

    fn counts(verdict: Verdict) -> Verdict {
        Verdict { examples: Vec::new(), ..verdict }
    }

    #[test]
    fn what_is_right_is_clean_and_duplicates_break_nothing() {
        let (rows, mut records) = good();
        assert_eq!(judge(&rows, &records, &ranges()), clean(4));
        records.insert(3, record(1, "a", 1));
        records.insert(4, record(3, "a", 3));
        let verdict = judge(&rows, &records, &ranges());
        assert_eq!(verdict, Verdict { duplicates: 2, ..clean(4) });
        assert!(verdict.is_clean());
    }

    #[test]
    fn finds_a_loss() {
        let (rows, mut records) = good();
        records.remove(2);
        let verdict = judge(&rows, &records, &ranges());
        assert!(verdict.examples[0].contains("row 3 of events never arrived"), "{verdict:?}");
        let expected = Verdict { published: 4, delivered: 3, lost: 1, consumer_gaps: 1, ..Verdict::default() };
        assert_eq!(counts(verdict), expected);
        assert!(!expected.is_clean());
    }

    #[test]
    fn finds_a_stranger() {
        let (rows, mut records) = good();
        records.push(record(9, "c", 9));
        let expected = Verdict { unknown: 1, consumer_gaps: 1, ..clean(4) };
        assert_eq!(counts(judge(&rows, &records, &ranges())), expected);
    }

    #[test]
    fn finds_rows_out_of_order_even_when_their_seqs_rise() {
        let (rows, mut records) = good();
        records[2] = record(4, "a", 3);
        records[3] = record(3, "a", 4);
        let verdict = judge(&rows, &records, &ranges());
        assert!(verdict.examples[0].contains("row 3 (place 2) came after row 4"), "{verdict:?}");
        assert_eq!(counts(verdict), Verdict { order_violations: 1, ..clean(4) });
    }

    #[test]
    fn rows_of_one_place_come_in_any_order() {
        let (mut rows, mut records) = good();
        rows[3].order = Some(2);
        records[2] = record(4, "a", 3);
        records[3] = record(3, "a", 4);
        assert_eq!(judge(&rows, &records, &ranges()), clean(4));
        rows[2].order = None;
        rows[3].order = None;
        assert_eq!(judge(&rows, &records, &ranges()), clean(4));
    }

    #[test]
    fn finds_a_seq_that_does_not_rise_and_the_row_a_consumer_then_drops() {
        let (rows, mut records) = good();
        records[3].seq = records[0].seq.clone();
        let expected = Verdict { seq_violations: 1, consumer_gaps: 1, ..clean(4) };
        assert_eq!(counts(judge(&rows, &records, &ranges())), expected);
    }

    #[test]
    fn finds_a_row_under_two_seqs_or_two_event_ids() {
        let (rows, mut records) = good();
        records.push(record(4, "a", 5));
        let expected = Verdict { duplicates: 1, seq_violations: 1, consumer_gaps: 1, ..clean(4) };
        assert_eq!(counts(judge(&rows, &records, &ranges())), expected);
        records[4] = Delivered { event_id: "other".to_owned(), ..record(4, "a", 4) };
        let expected = Verdict { duplicates: 1, seq_violations: 1, ..clean(4) };
        assert_eq!(counts(judge(&rows, &records, &ranges())), expected);
    }

    #[test]
    fn finds_a_wrong_shard_and_a_wrong_key() {
        let (rows, mut records) = good();
        let hash = hash_key("b");
        let shards: BTreeMap<ShardId, HashRange> =
            [("s0".into(), HashRange { first: 0, last: hash - 1 })].into();
        let only_b = [records[1].clone()];
        assert_eq!(judge(&rows[1..2], &only_b, &shards).wrong_shard, 1);
        records[1].partition_key = "x".into();
        assert_eq!(judge(&rows, &records, &ranges()).wrong_key, 2);
        let mut keyless = rows;
        keyless[1].key = None;
        records[1].key = "x".to_owned();
        assert_eq!(judge(&keyless, &records, &ranges()), clean(4));
    }

    #[test]
    fn outboxes_do_not_mix() {
        let (mut rows, mut records) = good();
        rows.push(Committed { outbox: "other".into(), ..committed(1, "a", 9) });
        records.push(Delivered { outbox: "other".into(), ..record(1, "a", 1) });
        assert_eq!(judge(&rows, &records, &ranges()), clean(5));
    }

    #[test]
    fn reads_native_bodies_and_says_what_is_not_one() {
        let arrived = |data: &'static str| Arrived {
            shard: "s0".into(),
            sequence: "77".to_owned(),
            partition_key: "a".to_owned(),
            data: data.into(),
            arrived_unix_ms: None,
            received_at: Instant::now(),
        };
        let body = r#"{"id":4,"seq":"00-4","event_id":"e","outbox":"events","key":"a","created_at":"x","headers":{},"payload":{"n": 1}}"#;
        let delivered = Delivered::parse(&arrived(body)).expect("a native body");
        assert_eq!((delivered.id, &*delivered.payload), (4, r#"{"n": 1}"#));
        let error = Delivered::parse(&arrived("{}")).expect_err("nothing in it");
        assert!(error.to_string().contains("record 77 of s0"), "{error}");
    }
}
