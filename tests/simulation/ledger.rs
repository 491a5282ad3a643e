//! The judge: knows what was committed and what arrived, and asks the predicates
//! of `core::invariants`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use tidegate::core::budget::{Cost, ShardLimits};
use tidegate::core::invariants::{self, Invariant};
use tidegate::core::ports::OutboxId;
use tidegate::core::position::{Position, RowId};
use tidegate::core::snapshot::{Snapshot, Xid};
use tidegate::core::time::Moment;

use crate::database::Row;

/// A row, wherever it goes.
pub(crate) type RowKey = (OutboxId, RowId);
/// A partition key of a pipeline: stream, outbox, key.
type KeyOf = (usize, OutboxId, String);

/// The members of a record that the judge reads.
#[derive(Deserialize)]
pub(crate) struct Body {
    pub(crate) id: RowId,
    pub(crate) seq: String,
    pub(crate) event_id: String,
    pub(crate) outbox: String,
    pub(crate) key: String,
}

#[derive(Debug, Clone)]
struct Arrival {
    seq: String,
    event_id: String,
    times: usize,
}

#[derive(Debug, Default)]
struct KeyState {
    last_place: Option<usize>,
    last_first_seq: Option<String>,
    consumer_saw: Option<String>,
}

/// What one pipeline delivers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    pub(crate) outbox: OutboxId,
    pub(crate) stream: usize,
}

pub(crate) struct Ledger {
    pub(crate) routes: Vec<Route>,
    /// Committed rows and the place of each in the order of its key.
    committed: BTreeMap<RowKey, (String, usize)>,
    of_key: BTreeMap<(OutboxId, String), usize>,
    serialised: BTreeSet<String>,
    arrivals: BTreeMap<(usize, OutboxId, RowId), Arrival>,
    /// Committed rows that are not in the stream.
    waiting: BTreeMap<(usize, OutboxId), BTreeMap<RowId, Xid>>,
    bases: BTreeMap<(usize, OutboxId), Snapshot>,
    consumed: BTreeSet<(usize, OutboxId, RowId)>,
    keys: BTreeMap<KeyOf, KeyState>,
    offered: BTreeMap<(u64, usize, String), Vec<(Moment, Cost)>>,
    /// The key of each row, and when it was in a stream first.
    pub(crate) arrived_at: BTreeMap<RowId, (String, Moment)>,
    /// Records that were in the stream already.
    pub(crate) repeats: usize,
    pub(crate) violations: Vec<(Invariant, String)>,
}

impl Ledger {
    pub(crate) fn new(routes: Vec<Route>, serialised: BTreeSet<String>) -> Self {
        Self {
            routes,
            committed: BTreeMap::new(),
            of_key: BTreeMap::new(),
            serialised,
            arrivals: BTreeMap::new(),
            waiting: BTreeMap::new(),
            bases: BTreeMap::new(),
            consumed: BTreeSet::new(),
            keys: BTreeMap::new(),
            offered: BTreeMap::new(),
            arrived_at: BTreeMap::new(),
            repeats: 0,
            violations: Vec::new(),
        }
    }

    fn check(&mut self, invariant: Invariant, holds: bool, found: impl FnOnce() -> String) {
        if !holds {
            self.violations.push((invariant, found()));
        }
    }

    pub(crate) fn committed(&mut self, rows: &[Row]) {
        for row in rows {
            let place = self
                .of_key
                .entry((row.outbox, row.key.clone()))
                .or_default();
            *place += 1;
            self.committed
                .insert((row.outbox, row.id), (row.key.clone(), *place));
            for route in self
                .routes
                .iter()
                .filter(|route| route.outbox == row.outbox)
            {
                let waiting = self
                    .waiting
                    .entry((route.stream, route.outbox))
                    .or_default();
                waiting.insert(row.id, row.xid);
            }
        }
    }

    pub(crate) fn arrived_rows(&self) -> usize {
        self.arrivals.len()
    }

    /// A record is in the stream.
    pub(crate) fn arrived(
        &mut self,
        stream: usize,
        outbox: OutboxId,
        key: &str,
        body: &Body,
        now: Moment,
    ) {
        let row = (outbox, body.id);
        let known = self.committed.get(&row).cloned();
        let is_right = known.as_ref().is_some_and(|(of, _)| of == key);
        self.check(
            Invariant::LossPhantom,
            invariants::is_committed(is_right),
            || {
                format!(
                    "row {} of {key} is in the stream and was never committed",
                    body.id
                )
            },
        );
        let place = known.map_or(0, |(_, place)| place);
        let state = self
            .keys
            .entry((stream, outbox, key.to_owned()))
            .or_default();
        let accepts = invariants::rises(state.consumer_saw.as_ref(), &body.seq);
        if accepts {
            state.consumer_saw = Some(body.seq.clone());
            self.consumed.insert((stream, outbox, body.id));
        }
        let arrival = (stream, outbox, body.id);
        if let Some(before) = self.arrivals.get_mut(&arrival) {
            before.times += 1;
            self.repeats += 1;
            let before = before.clone();
            let is_renumbered = life_of(&before.seq) != life_of(&body.seq);
            let is_stable = invariants::is_same(Some(&before.seq), &body.seq) || is_renumbered;
            self.check(Invariant::SeqStable, is_stable, || {
                format!(
                    "row {} of {key} had seq {} and now has {}",
                    body.id, before.seq, body.seq
                )
            });
            let same = invariants::is_same(Some(&before.event_id), &body.event_id);
            self.check(Invariant::SeqStable, same, || {
                format!("row {} has another event id", body.id)
            });
            return;
        }
        let arrived = Arrival {
            seq: body.seq.clone(),
            event_id: body.event_id.clone(),
            times: 1,
        };
        self.arrivals.insert(arrival, arrived);
        self.arrived_at.insert(body.id, (key.to_owned(), now));
        if let Some(waiting) = self.waiting.get_mut(&(stream, outbox)) {
            waiting.remove(&body.id);
        }
        let state = self
            .keys
            .entry((stream, outbox, key.to_owned()))
            .or_default();
        let (last_place, last_seq) = (state.last_place, state.last_first_seq.clone());
        state.last_place = Some(place);
        state.last_first_seq = Some(body.seq.clone());
        if self.serialised.contains(key) {
            self.check(
                Invariant::Order,
                invariants::rises(last_place.as_ref(), &place),
                || {
                    format!(
                        "row {} is number {place} of {key} and came after number {last_place:?}",
                        body.id
                    )
                },
            );
        }
        self.check(
            Invariant::SeqRises,
            invariants::rises(last_seq.as_ref(), &body.seq),
            || {
                format!(
                    "row {} of {key} has seq {} after {last_seq:?}",
                    body.id, body.seq
                )
            },
        );
    }

    /// A relay sends a call.
    pub(crate) fn offered(
        &mut self,
        process: u64,
        stream: usize,
        shard: &str,
        cost: Cost,
        limits: ShardLimits,
        now: Moment,
    ) {
        let calls = self
            .offered
            .entry((process, stream, shard.to_owned()))
            .or_default();
        calls.retain(|(at, _)| now.since(*at) < std::time::Duration::from_secs(1));
        calls.push((now, cost));
        let total = calls.iter().fold(Cost::default(), |sum, (_, cost)| Cost {
            records: sum.records + cost.records,
            bytes: sum.bytes + cost.bytes,
        });
        self.check(
            Invariant::Budget,
            invariants::within_budget(total, limits),
            || format!("{shard} was offered {total:?} within a second"),
        );
    }

    /// A call's records, as they are sent.
    pub(crate) fn sent(&mut self, keys: &[(OutboxId, String)]) {
        self.check(
            Invariant::OrderOnePerKey,
            invariants::one_per_key(keys),
            || format!("a call carries two records of a key: {keys:?}"),
        );
    }

    /// A position was written down.
    pub(crate) fn saved(&mut self, route: Route, position: &Position) {
        let key = (route.stream, route.outbox);
        // What was committed since the same base was looked at, it cannot see.
        if self.bases.get(&key) == Some(&position.base) {
            return;
        }
        self.bases.insert(key, position.base.clone());
        let waiting = self
            .waiting
            .entry((route.stream, route.outbox))
            .or_default();
        let passed = waiting
            .iter()
            .find(|(_, xid)| !invariants::passes_only_settled(position.base.sees(**xid), false));
        let passed = passed.map(|(id, _)| *id);
        self.check(Invariant::Loss, passed.is_none(), || {
            format!("a position passes row {passed:?}, which is not in the stream")
        });
    }

    /// Rows that are committed and not in every stream they go to.
    pub(crate) fn missing(&self) -> usize {
        self.waiting.values().map(BTreeMap::len).sum()
    }

    fn left_over<'a>(
        &'a self,
        has: impl Fn(&(usize, OutboxId, RowId)) -> bool + 'a,
    ) -> impl Iterator<Item = (usize, OutboxId, RowId)> + 'a {
        let pairs = self.routes.iter().flat_map(move |route| {
            let rows = self
                .committed
                .range((route.outbox, RowId::MIN)..=(route.outbox, RowId::MAX));
            rows.map(move |((outbox, id), _)| (route.stream, *outbox, *id))
        });
        pairs.filter(move |arrival| !has(arrival))
    }

    /// Everything has settled: nothing may be missing, in the stream or with a
    /// consumer that goes by `seq`.
    pub(crate) fn judge_the_end(&mut self) {
        let lost: Vec<_> = self
            .left_over(|arrival| self.arrivals.contains_key(arrival))
            .collect();
        self.check(
            Invariant::Loss,
            invariants::passes_only_settled(true, lost.is_empty()),
            || {
                format!(
                    "{} rows were never delivered, such as {:?}",
                    lost.len(),
                    lost[0]
                )
            },
        );
        let dropped: Vec<_> = self
            .left_over(|arrival| self.consumed.contains(arrival))
            .collect();
        let holds = invariants::passes_only_settled(true, dropped.is_empty() || !lost.is_empty());
        self.check(Invariant::SeqSuffices, holds, || {
            format!(
                "a consumer that goes by seq drops {} rows, such as {:?}",
                dropped.len(),
                dropped[0]
            )
        });
    }
}

/// Every crash of the server that might have lost numbers skips this many, ADR 1:
/// a row may be renumbered then, and only then.
const SKIPPED_BY_A_CRASH: u64 = 1_000_000;

fn life_of(seq: &str) -> Option<u64> {
    let (window, _) = seq.split_once('-')?;
    Some(window.parse::<u64>().ok()? / SKIPPED_BY_A_CRASH)
}
