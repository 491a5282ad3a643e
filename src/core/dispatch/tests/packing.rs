//! Writers of flows whose rows share records.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;
use crate::core::aggregation::{Container, Packing};
use crate::core::compression::Compression;
use crate::core::sabotage;

/// A row with its key and its place in the order of its key.
#[derive(Debug, Clone)]
struct Keyed(u128, usize);

impl Sendable for Keyed {
    fn hash(&self) -> u128 {
        self.0
    }

    fn weight(&self) -> usize {
        100
    }

    fn key_bytes(&self) -> usize {
        1
    }

    fn is_of_key_of(&self, _: &Self) -> bool {
        true
    }

    fn doubt(&mut self) {}

    fn is_in_doubt(&self) -> bool {
        false
    }
}

fn unlimited() -> SharedBudget {
    let limits = ShardLimits {
        records_per_second: 1e9,
        bytes_per_second: 1e12,
        fraction: 1.0,
    };
    Arc::new(Mutex::new(ShardBudget::new(limits, Moment::ORIGIN)))
}

fn packer(keys: u128, rows: usize, compression: Compression) -> Dispatch<Keyed> {
    let mut writer = Dispatch::new("s".into(), unlimited(), Moment::ORIGIN);
    let container = match compression {
        Compression::None => Container::Kpl,
        Compression::Gzip | Compression::Zstd => Container::Ndjson,
    };
    let flow = Flow {
        id: 1,
        tenant: "t".into(),
        shares: Arc::new(Shares::new(1, 1, 100)),
        packing: Some(Packing {
            container,
            compression,
            max_bytes: 2_000,
        }),
    };
    for place in 0..rows {
        for key in 0..keys {
            writer.push(&flow, Keyed(key, place));
        }
    }
    writer
}

fn stored_in(shard: &str) -> RecordOutcome {
    RecordOutcome::Stored {
        shard: shard.into(),
        sequence: "1".into(),
    }
}

/// Calls until nothing waits. What the service does is decided by the call.
fn drive(
    writer: &mut Dispatch<Keyed>,
    mut serve: impl FnMut(&[Parcel<Keyed>]) -> Result<Vec<RecordOutcome>, CallFailure>,
    mut look: impl FnMut(&mut Dispatch<Keyed>, Answer<Keyed>),
) -> usize {
    let (mut calls, mut now) = (0, 10_000);
    loop {
        match writer.next(at(now)) {
            Next::Call => calls += 1,
            Next::Wait(until, _) => {
                now = u64::try_from(until.since(Moment::ORIGIN).as_millis()).unwrap() + 1;
                continue;
            }
            Next::Nothing => return calls,
        }
        assert!(calls < 5_000, "no end");
        assert_eq!(writer.take_violations(), Vec::new());
        let answer = serve(writer.in_flight());
        let answer = writer.answered(answer, at(now), 0.5);
        look(writer, answer);
    }
}

#[test]
fn a_row_that_spoils_its_record_is_found_and_its_neighbours_are_stored() {
    for bad in [
        vec![(0, 0)],
        vec![(3, 7), (4, 7), (9, 0)],
        vec![(5, 19), (5, 18)],
    ] {
        let mut writer = packer(10, 20, Compression::None);
        let (mut stored, mut refused) = (BTreeMap::<u128, Vec<usize>>::new(), Vec::new());
        let calls = drive(
            &mut writer,
            |call| {
                let is_bad = |row: &Keyed| bad.contains(&(row.0, row.1));
                if call.iter().flat_map(Parcel::rows).any(is_bad) {
                    let (code, message) = ("ValidationException".to_owned(), "no".to_owned());
                    return Err(CallFailure::BadRecord { code, message });
                }
                Ok(call.iter().map(|_| stored_in("s")).collect())
            },
            |writer, answer| {
                for row in answer.stored.iter().flat_map(|one| one.parcel.rows()) {
                    stored.entry(row.0).or_default().push(row.1);
                }
                if let Some(rejected) = answer.rejected {
                    refused.push((rejected.row.0, rejected.row.1));
                    writer.pass_over(1, rejected.row.0);
                }
            },
        );
        refused.sort_unstable();
        let mut expected = bad.clone();
        expected.sort_unstable();
        assert_eq!(refused, expected, "only those");
        for (key, places) in &stored {
            let rest = (0..20).filter(|place| !bad.contains(&(*key, *place)));
            assert_eq!(*places, rest.collect::<Vec<_>>(), "of key {key}");
        }
        assert_eq!(stored.len(), 10);
        assert!(calls <= 30 * bad.len() + 20, "{calls} calls for {bad:?}");
    }
}

/// The shard is split into two while its writer does not know: what a consumer that
/// leaves out foreign rows has in the end.
fn through_a_split() -> (HashMap<u128, Vec<usize>>, usize) {
    let mut writer = packer(10, 20, Compression::None);
    let child = |key: u128| if key < 5 { "left" } else { "right" };
    let mut consumed: HashMap<u128, Vec<usize>> = HashMap::new();
    let mut misplaced = 0;
    drive(
        &mut writer,
        |call| {
            let put = |parcel: &Parcel<Keyed>| {
                let shard = child(parcel.first().0);
                for row in parcel.rows().filter(|row| child(row.0) == shard) {
                    consumed.entry(row.0).or_default().push(row.1);
                }
                stored_in(shard)
            };
            Ok(call.iter().map(put).collect())
        },
        |_, answer| {
            misplaced += answer.misplaced;
            assert!(answer.surprise.is_some());
        },
    );
    (consumed, misplaced)
}

#[test]
fn rows_that_went_to_a_foreign_shard_go_again() {
    let (consumed, misplaced) = through_a_split();
    assert!(misplaced > 0);
    for key in 0..10 {
        let mut firsts = Vec::new();
        for place in &consumed[&key] {
            if firsts.iter().all(|first| first < place) {
                firsts.push(*place);
            }
        }
        assert_eq!(firsts, (0..20).collect::<Vec<_>>(), "of key {key}");
    }
}

#[test]
fn rows_share_records_again_after_a_while() {
    let mut writer = packer(10, 20, Compression::None);
    let rows = |writer: &Dispatch<Keyed>| -> Vec<usize> {
        writer.in_flight().iter().map(Parcel::len).collect()
    };
    assert_eq!(writer.next(at(10_000)), Next::Call);
    let sent = rows(&writer);
    assert!(sent.iter().all(|rows| *rows > 1), "{sent:?}");
    let elsewhere = sent.iter().map(|_| stored_in("t")).collect();
    let answer = writer.answered(Ok(elsewhere), at(10_000), 0.5);
    assert_eq!(answer.misplaced, sent.iter().sum::<usize>());
    assert_eq!(writer.next(at(11_000)), Next::Call);
    let alone = rows(&writer);
    assert_eq!(alone, [1; 10], "each key's first row, by itself");
    let stored = alone.iter().map(|_| stored_in("t")).collect();
    assert_eq!(writer.answered(Ok(stored), at(11_000), 0.5).misplaced, 0);
    assert_eq!(writer.next(at(70_000)), Next::Call);
    assert!(rows(&writer).iter().all(|rows| *rows > 1));
}

#[cfg(feature = "demo")]
#[test]
fn without_that_a_consumer_lacks_them() {
    sabotage::make(Some(Bug::MisplacedIsDelivered));
    let (consumed, _) = through_a_split();
    sabotage::make(None);
    let rows: usize = consumed.values().map(Vec::len).sum();
    assert!(rows < 200, "{rows} rows");
}

#[test]
fn shards_that_are_guessed_get_records_of_one_key() {
    let mut writer = packer(10, 20, Compression::None);
    writer.guesses_range(true);
    let mut stored = 0;
    let calls = drive(
        &mut writer,
        |call| {
            assert!(call.iter().all(Parcel::has_one_key));
            Ok(call.iter().map(|_| stored_in("elsewhere")).collect())
        },
        |_, answer| {
            assert_eq!(answer.misplaced, 0, "each record went by its own key");
            stored += answer
                .stored
                .iter()
                .map(|one| one.parcel.len())
                .sum::<usize>();
        },
    );
    assert_eq!((stored, calls), (200, 2), "the rows of a key share records");
}

#[test]
fn the_budget_gets_back_what_compression_saves() {
    let mut writer = packer(10, 20, Compression::Zstd);
    let mut sent = 0;
    let mut now = 10_000;
    while writer.next(at(now)) == Next::Call {
        let weights: Vec<usize> = writer
            .in_flight()
            .iter()
            .map(|one| one.weight() / 4)
            .collect();
        sent += weights.iter().sum::<usize>().div_ceil(1024) * 1024;
        writer.weighed(&weights);
        let all = writer.in_flight().iter().map(|_| stored_in("s")).collect();
        writer.answered(Ok(all), at(now), 0.5);
        now += 1;
    }
    assert_eq!(writer.queued(), 0);
    let offered = writer.budget().offered_lately();
    assert_eq!(offered.bytes, sent as u64);
}

proptest! {
    #[test]
    fn every_row_is_stored_once_and_in_order_through_failures_of_records(
        keys in 1u128..12, rows in 1usize..40,
        fates in prop::collection::vec(0u8..6, 1..40),
    ) {
        let mut writer = packer(keys, rows, Compression::None);
        let mut fates = fates.into_iter().chain([0]).cycle();
        let mut stored: HashMap<u128, Vec<usize>> = HashMap::new();
        drive(
            &mut writer,
            |call| {
                let fate = |_: &Parcel<Keyed>| match fates.next() {
                    Some(1) => RecordOutcome::Throttled,
                    Some(2) => RecordOutcome::Failed { code: "InternalFailure".into(), message: String::new() },
                    Some(_) | None => stored_in("s"),
                };
                Ok(call.iter().map(fate).collect())
            },
            |_, answer| {
                for row in answer.stored.iter().flat_map(|one| one.parcel.rows()) {
                    stored.entry(row.0).or_default().push(row.1);
                }
            },
        );
        for key in 0..keys {
            prop_assert_eq!(&stored[&key], &(0..rows).collect::<Vec<_>>());
        }
    }
}
