//! The judge: knows what was committed and what arrived, and asks the predicates
//! of `core::invariants`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use tidegate::core::budget::{Cost, ShardLimits};
use tidegate::core::dead_letter::OnPoison;
use tidegate::core::invariants::{self, Invariant};
use tidegate::core::ports::OutboxId;
use tidegate::core::position::{Position, RowId};
use tidegate::core::snapshot::{Snapshot, Xid};
use tidegate::core::time::Moment;

use crate::database::Row;
use crate::together::Together;

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

/// Where a record has arrived.
pub(crate) struct Of<'a> {
    pub(crate) stream: usize,
    pub(crate) outbox: OutboxId,
    pub(crate) key: &'a str,
    pub(crate) again: Again,
}

/// What letters and replays say about a record that arrives.
#[derive(Debug, Default)]
pub(crate) struct Again {
    pub(crate) has_letter: bool,
    /// It was asked for after it had been parked or delivered.
    pub(crate) is_wanted: bool,
    /// Rows whose open letters block its key.
    pub(crate) blocking: Vec<RowId>,
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
    pub(crate) on_poison: OnPoison,
}

pub(crate) struct Ledger {
    pub(crate) routes: Vec<Route>,
    /// Committed rows and the place of each in the order of its key.
    committed: BTreeMap<RowKey, (String, usize)>,
    of_key: BTreeMap<(OutboxId, String), usize>,
    serialised: BTreeSet<String>,
    /// Rows that could not be sent when they were written.
    poison: BTreeSet<RowKey>,
    arrivals: BTreeMap<(usize, OutboxId, RowId), Arrival>,
    /// Committed rows that are not in the stream.
    waiting: BTreeMap<(usize, OutboxId), BTreeMap<RowId, Xid>>,
    /// The bases that were written down, each in a life of the server.
    bases: BTreeMap<(usize, OutboxId), (u64, Snapshot)>,
    consumed: BTreeSet<(usize, OutboxId, RowId)>,
    keys: BTreeMap<KeyOf, KeyState>,
    offered: BTreeMap<(u64, usize, String), Vec<(Moment, Cost)>>,
    together: Together,
    /// The key of each row, and when it was in a stream first.
    pub(crate) arrived_at: BTreeMap<RowId, (String, Moment)>,
    /// Poison that came late under its old number, `park` and a crash allowing.
    pub(crate) strays: usize,
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
            poison: BTreeSet::new(),
            arrivals: BTreeMap::new(),
            waiting: BTreeMap::new(),
            bases: BTreeMap::new(),
            consumed: BTreeSet::new(),
            keys: BTreeMap::new(),
            offered: BTreeMap::new(),
            together: Together::default(),
            arrived_at: BTreeMap::new(),
            strays: 0,
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
            if row.defect.is_some() {
                self.poison.insert((row.outbox, row.id));
            }
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
    pub(crate) fn arrived(&mut self, of: &Of<'_>, body: &Body, now: Moment) {
        let Of {
            stream,
            outbox,
            key,
            ref again,
        } = *of;
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
            // Sent again on request: under a number above all of its key.
            let is_new = again.is_wanted && accepts;
            if is_new {
                self.arrivals.get_mut(&arrival).expect("known").seq = body.seq.clone();
            }
            let was_before = again.is_wanted && body.seq < before.seq;
            let is_stable = invariants::is_same(Some(&before.seq), &body.seq)
                || is_renumbered
                || is_new
                || was_before;
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
        let route = self
            .routes
            .iter()
            .find(|route| (route.stream, route.outbox) == (stream, outbox));
        let blocks = route.is_none_or(|route| route.on_poison != OnPoison::Park);
        // Under `park` the rows behind poison go by. After a crash before its letter
        // was written it is read again, and by then the service may take it: late, and
        // under its old number (docs/dead-letters.md).
        let is_poison = self.poison.contains(&row);
        let is_stray = !blocks && is_poison && !again.has_letter && !accepts;
        let may_be_late = again.has_letter || is_poison;
        let is_judged = self.serialised.contains(key) && (blocks || !may_be_late);
        let state = self
            .keys
            .entry((stream, outbox, key.to_owned()))
            .or_default();
        let (last_place, last_seq) = (state.last_place, state.last_first_seq.clone());
        if is_judged {
            state.last_place = Some(place);
        }
        if is_stray {
            self.strays += 1;
            self.consumed.insert((stream, outbox, body.id));
            return;
        }
        state.last_first_seq = Some(body.seq.clone());
        if is_judged && blocks {
            let overtaken = again.blocking.iter().find(|other| {
                let of_other = self.committed.get(&(outbox, **other));
                let is_before = of_other.is_some_and(|(_, of_other)| *of_other < place);
                is_before && !self.arrivals.contains_key(&(stream, outbox, **other))
            });
            let overtaken = overtaken.copied();
            let holds = invariants::passes_only_settled(overtaken.is_some(), false);
            self.check(Invariant::OrderLetters, holds, || {
                format!(
                    "row {} of {key} passes row {overtaken:?}, whose letter blocks the key",
                    body.id
                )
            });
        }
        if is_judged {
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
        let together = &mut self.together;
        let too_much = together.offered(process, (stream, shard), cost, limits, now);
        self.check(Invariant::SharesFit, too_much.is_none(), || {
            too_much.unwrap_or_default()
        });
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
    pub(crate) fn saved(
        &mut self,
        route: Route,
        position: &Position,
        life: u64,
        is_parked: impl Fn(RowId) -> bool,
    ) {
        let key = (route.stream, route.outbox);
        let before = self.bases.get(&key);
        // What was committed since the same base was looked at, it cannot see.
        if before.is_some_and(|(_, base)| *base == position.base) {
            return;
        }
        let stands = before.is_none_or(|(of, base)| *of != life || position.base.covers(base));
        self.bases.insert(key, (life, position.base.clone()));
        self.check(Invariant::PositionStands, stands, || {
            format!("a position goes back to {}", position.base)
        });
        let waiting = self
            .waiting
            .entry((route.stream, route.outbox))
            .or_default();
        let passed = waiting.iter().find(|(id, xid)| {
            let passes = position.base.sees(**xid);
            !invariants::passes_only_settled(passes, passes && is_parked(**id))
        });
        let passed = passed.map(|(id, _)| *id);
        self.check(Invariant::Loss, passed.is_none(), || {
            format!(
                "a position passes row {passed:?}, which is not in the stream and has no letter"
            )
        });
    }

    /// Rows that are committed, not in the stream of a pipeline, and not with a
    /// person.
    pub(crate) fn missing(&self, is_left: impl Fn(usize, RowId) -> bool) -> usize {
        let missing = |(place, route): (usize, &Route)| {
            let waiting = self.waiting.get(&(route.stream, route.outbox));
            let rows = waiting.into_iter().flat_map(BTreeMap::keys);
            rows.filter(|row| !is_left(place, **row)).count()
        };
        self.routes.iter().enumerate().map(missing).sum()
    }

    pub(crate) fn place_of(&self, stream: usize, outbox: OutboxId) -> Option<usize> {
        let is_it = |route: &Route| (route.stream, route.outbox) == (stream, outbox);
        self.routes.iter().position(is_it)
    }

    /// The lowest and the highest id of an outbox.
    pub(crate) fn ids_of(&self, outbox: OutboxId) -> (Option<RowId>, Option<RowId>) {
        let mut all = self
            .committed
            .range((outbox, RowId::MIN)..=(outbox, RowId::MAX))
            .map(|((_, id), _)| *id);
        let first = all.next();
        (first, all.next_back().or(first))
    }

    /// Rows of a pipeline that are in its stream.
    pub(crate) fn delivered(
        &self,
        route: Route,
        from: RowId,
        to: RowId,
    ) -> impl Iterator<Item = RowId> + '_ {
        let (stream, outbox) = (route.stream, route.outbox);
        let all = self
            .arrivals
            .range((stream, outbox, from)..=(stream, outbox, to));
        all.map(|((_, _, id), _)| *id)
    }

    pub(crate) fn is_delivered(&self, route: Route, row: RowId) -> bool {
        self.times(route, row) > 0
    }

    /// How often a row is in the stream.
    pub(crate) fn times(&self, route: Route, row: RowId) -> usize {
        let arrival = self.arrivals.get(&(route.stream, route.outbox, row));
        arrival.map_or(0, |arrival| arrival.times)
    }

    /// How many rows of a pipeline were committed.
    pub(crate) fn committed_rows(&self, route: Route) -> usize {
        let rows = (route.outbox, RowId::MIN)..=(route.outbox, RowId::MAX);
        self.committed.range(rows).count()
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
    pub(crate) fn judge_the_end(&mut self, is_parked: impl Fn(Route, RowId) -> bool) {
        let is_left = |arrival: &(usize, OutboxId, RowId)| {
            let (stream, outbox, row) = *arrival;
            let route = self
                .place_of(stream, outbox)
                .map(|place| self.routes[place]);
            !self.arrivals.contains_key(arrival) && route.is_some_and(|of| is_parked(of, row))
        };
        let lost: Vec<_> = self
            .left_over(|arrival| self.arrivals.contains_key(arrival) || is_left(arrival))
            .collect();
        let dropped: Vec<_> = self
            .left_over(|arrival| self.consumed.contains(arrival) || is_left(arrival))
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
