//! What the service saw, call by call: which rows were offered when, and what
//! became of them.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::Value;
use tidegate::core::shard_map::ShardId;
use tidegate::demo::tally::{LoggedCall, Tally};

/// An outbox and a row's id.
pub(crate) type Row = (String, i64);

/// A record as it was offered.
#[derive(Debug, Clone)]
pub(crate) struct Offered {
    pub(crate) row: Row,
    pub(crate) key: String,
    pub(crate) is_stored: bool,
}

/// A PutRecords call; its records go to one shard.
#[derive(Debug, Clone)]
pub(crate) struct PutCall {
    pub(crate) number: u64,
    pub(crate) shard: ShardId,
    pub(crate) records: Vec<Offered>,
    /// Whether its client was told what became of the records.
    pub(crate) is_answered: bool,
}

impl PutCall {
    fn rows(&self, stored: bool) -> BTreeSet<&Row> {
        let alike = self
            .records
            .iter()
            .filter(|record| record.is_stored == stored);
        alike.map(|record| &record.row).collect()
    }

    /// Whether some of its records were stored, and some not.
    pub(crate) fn is_partial(&self) -> bool {
        !self.rows(true).is_empty() && !self.rows(false).is_empty()
    }
}

/// All puts the emulator has logged, with their data. A call for several shards
/// fails the test: a writer sends to its own.
pub(crate) fn put_calls(tally: &Tally) -> Vec<PutCall> {
    let calls = tally.logged_calls();
    assert_eq!(
        calls.first().map_or(0, |call| call.number),
        0,
        "the log has dropped calls"
    );
    calls.iter().filter_map(put_call).collect()
}

fn put_call(call: &LoggedCall) -> Option<PutCall> {
    let shard = call.records.first()?.shard.clone()?;
    let records = call.records.iter().map(|record| {
        assert_eq!(
            record.shard.as_ref(),
            Some(&shard),
            "call {} is for several shards",
            call.number
        );
        let data = record.data.as_ref().expect("the log keeps data");
        let body: Value = serde_json::from_slice(data).expect("a native body");
        let outbox = body["outbox"].as_str().expect("an outbox").to_owned();
        Offered {
            row: (outbox, body["id"].as_i64().expect("an id")),
            key: record.key.clone(),
            is_stored: call.applied && record.code.is_none(),
        }
    });
    Some(PutCall {
        number: call.number,
        shard: shard.clone(),
        records: records.collect(),
        is_answered: call.answered,
    })
}

/// Asserts that every call has at most one record of an outbox and key.
pub(crate) fn assert_one_record_per_key(calls: &[PutCall]) {
    for call in calls {
        let mut keys = HashSet::new();
        for record in &call.records {
            assert!(
                keys.insert((&record.row.0, &record.key)),
                "call {} has two records of key {:?} of {}",
                call.number,
                record.key,
                record.row.0
            );
        }
    }
}

/// Asserts that no record was offered again once the client knew it was stored.
pub(crate) fn assert_stored_records_are_not_sent_again(calls: &[PutCall]) {
    let mut stored: HashMap<&Row, u64> = HashMap::new();
    for call in calls {
        for record in &call.records {
            if let Some(before) = stored.get(&record.row) {
                panic!(
                    "row {:?} was stored by call {before} and sent again in call {}",
                    record.row, call.number
                );
            }
        }
        if call.is_answered {
            let new = call.records.iter().filter(|record| record.is_stored);
            stored.extend(new.map(|record| (&record.row, call.number)));
        }
    }
}

/// Asserts that what a call failed to store comes first in the shard's next call,
/// before anything new.
pub(crate) fn assert_failed_records_go_first(calls: &[PutCall]) {
    let mut failed: BTreeMap<&ShardId, BTreeSet<&Row>> = BTreeMap::new();
    for call in calls {
        let waiting = failed.entry(&call.shard).or_default();
        let first = &call.records[..call.records.len().min(waiting.len())];
        for record in first {
            assert!(
                waiting.contains(&record.row),
                "call {} begins with row {:?} while {waiting:?} wait",
                call.number,
                record.row
            );
        }
        for record in &call.records {
            waiting.remove(&record.row);
        }
        waiting.extend(call.rows(false));
    }
}

/// The longest run of calls to one shard that were all answered with a partial
/// failure.
pub(crate) fn partial_failures_in_a_row(calls: &[PutCall]) -> usize {
    let mut runs: BTreeMap<&ShardId, usize> = BTreeMap::new();
    let mut longest = 0;
    for call in calls {
        let run = runs.entry(&call.shard).or_default();
        *run = if call.is_partial() { *run + 1 } else { 0 };
        longest = longest.max(*run);
    }
    longest
}
