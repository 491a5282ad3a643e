//! A small database, a reader and writers that settle rows in any order, crash
//! at any moment and refuse one lane for long: the promises must hold.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::core::position::RowId;
use crate::core::snapshot::Xid;

mod handing_over;
mod resharding;
mod stuck_lane;

const LANES: u128 = 3;

#[derive(Debug, Clone, Copy)]
struct Row {
    id: RowId,
    xid: Xid,
    hash: u128,
}

#[derive(Debug, Default)]
struct Database {
    next_xid: Xid,
    next_id: RowId,
    running: BTreeSet<Xid>,
    aborted: BTreeSet<Xid>,
    rows: Vec<Row>,
}

impl Database {
    fn snapshot(&self) -> Snapshot {
        let xip: Vec<Xid> = self.running.iter().copied().collect();
        let xmax = self.next_xid + 1;
        Snapshot::new(xip.first().copied().unwrap_or(xmax), xmax, xip).expect("well formed")
    }

    fn window(&self, from: &Snapshot, to: &Snapshot) -> Vec<Row> {
        let committed =
            |row: &&Row| !self.running.contains(&row.xid) && !self.aborted.contains(&row.xid);
        let inside = |row: &&Row| to.sees(row.xid) && !from.sees(row.xid);
        let mut rows: Vec<Row> = self
            .rows
            .iter()
            .filter(committed)
            .filter(inside)
            .copied()
            .collect();
        rows.sort_by_key(|row| row.id);
        rows
    }
}

pub(super) fn shard_ranges() -> Vec<HashRange> {
    let width = u128::MAX / LANES;
    (0..LANES)
        .map(|place| HashRange {
            first: place * width,
            last: if place + 1 == LANES {
                u128::MAX
            } else {
                (place + 1) * width - 1
            },
        })
        .collect()
}

fn ranges_from(mut firsts: BTreeSet<u128>) -> Vec<HashRange> {
    firsts.insert(0);
    let firsts: Vec<u128> = firsts.into_iter().collect();
    let range = |(place, first): (usize, &u128)| HashRange {
        first: *first,
        last: firsts.get(place + 1).map_or(u128::MAX, |next| next - 1),
    };
    firsts.iter().enumerate().map(range).collect()
}

pub(super) fn ready(seq: Seq, hash: u128) -> Ready {
    Ready {
        envelope: Envelope {
            seq,
            key: Arc::from("k"),
            hash,
            body: Bytes::from_static(b"{}"),
        },
        visible_since: Moment::ORIGIN,
    }
}

struct World {
    database: Database,
    durable: Position,
    intake: Intake,
    /// Handed rows of this incarnation, per hash in order.
    handed: HashMap<u128, VecDeque<Seq>>,
    /// First time a row arrived in the stream: hash -> its seqs in order.
    arrived: HashMap<u128, Vec<Seq>>,
    seq_of: BTreeMap<RowId, Seq>,
    settled: BTreeSet<RowId>,
    shards: Vec<HashRange>,
    now: Moment,
    limits: IntakeLimits,
    most_windows: usize,
    duplicates: usize,
}

impl World {
    fn new(limits: IntakeLimits) -> Self {
        let now = Moment::ORIGIN;
        Self {
            database: Database {
                next_xid: 10,
                ..Database::default()
            },
            durable: Position::start(),
            intake: Intake::new(Position::start(), "", &shard_ranges(), limits, now),
            handed: HashMap::new(),
            arrived: HashMap::new(),
            seq_of: BTreeMap::new(),
            settled: BTreeSet::new(),
            shards: shard_ranges(),
            now,
            limits,
            most_windows: 0,
            duplicates: 0,
        }
    }

    fn crash(&mut self) {
        self.handed.clear();
        self.intake = Intake::new(
            self.durable.clone(),
            "",
            &self.shards,
            self.limits,
            self.now,
        );
    }

    /// Shards begin at these places among the hash keys.
    fn reshard(&mut self, cuts: &BTreeSet<usize>) {
        let firsts: BTreeSet<u128> = cuts.iter().map(|place| hash_of(*place) - 3).collect();
        self.shards = ranges_from(firsts);
        self.intake.reshard(&self.shards, self.now);
    }

    fn hand(&mut self, envelope: Envelope) {
        let known = *self.seq_of.entry(envelope.seq.id).or_insert(envelope.seq);
        assert_eq!(known, envelope.seq, "a row was handed under another seq");
        self.handed
            .entry(envelope.hash)
            .or_default()
            .push_back(envelope.seq);
    }

    fn room(&self) -> Room {
        Room {
            rows: self.limits.rows.saturating_sub(self.intake.handed()),
            bytes: 1 << 30,
        }
    }

    fn take_in(&mut self, window: WindowNumber, rows: &[Row]) {
        let mut room = self.room();
        for row in rows {
            let seq = Seq { window, id: row.id };
            if let Some(envelope) = self.intake.take_in(ready(seq, row.hash), &mut room) {
                self.hand(envelope);
            }
        }
    }

    fn save(&mut self) {
        let position = self.intake.position_to_save(self.now);
        self.written(position);
        self.intake.saved(self.now);
    }

    fn written(&mut self, position: Position) {
        let before = std::mem::replace(&mut self.durable, position);
        self.most_windows = self.most_windows.max(self.durable.open.len());
        assert!(self.durable.base.covers(&before.base), "the base went back");
        for row in &self.database.rows {
            if self.durable.base.sees(row.xid) && !self.database.aborted.contains(&row.xid) {
                assert!(
                    self.settled.contains(&row.id),
                    "the base passed row {} which is not settled",
                    row.id
                );
            }
        }
        for (row, seq) in self
            .database
            .rows
            .iter()
            .filter_map(|row| Some((row, self.seq_of.get(&row.id)?)))
        {
            let passed = self.durable.has_settled(*seq, row.hash);
            assert!(
                !passed || self.settled.contains(&row.id),
                "the position passed row {}",
                row.id
            );
        }
    }

    /// Does what the intake wishes; answers whether it did something.
    fn read_once(&mut self) -> bool {
        let wish = self.intake.next_wish(self.room(), self.now);
        match wish {
            Wish::Open { seen, page } => {
                let snapshot = self.database.snapshot();
                let rows = self.database.window(&seen, &snapshot);
                if rows.is_empty() {
                    self.intake.nothing_new(snapshot, self.now);
                    return true;
                }
                let window = self.intake.open_window(snapshot, self.now);
                self.save();
                self.whole_or_paged(window, &rows, page);
            }
            Wish::Reopen {
                window,
                from,
                to,
                page,
            } => {
                let rows = self.database.window(&from, &to);
                self.whole_or_paged(window, &rows, page);
            }
            Wish::Page {
                window,
                from,
                to,
                after,
                last,
                page,
                ..
            } => {
                let rows = self.database.window(&from, &to);
                let rows: Vec<Row> = rows
                    .into_iter()
                    .filter(|row| row.id > after && row.id <= last)
                    .take(page)
                    .collect();
                self.take_in(window, &rows);
                if rows.len() < page {
                    self.intake.end_window(window);
                }
            }
            Wish::Refill { lane, rows } => {
                let mut room = self.room();
                for seq in rows {
                    let hash = self
                        .database
                        .rows
                        .iter()
                        .find(|row| row.id == seq.id)
                        .expect("kept")
                        .hash;
                    if let Some(envelope) = self.intake.take_back(lane, ready(seq, hash), &mut room)
                    {
                        self.hand(envelope);
                    }
                }
            }
            Wish::Save => self.save(),
            Wish::Wait { .. } => return false,
        }
        true
    }

    fn whole_or_paged(&mut self, window: WindowNumber, rows: &[Row], page: usize) {
        match (rows.first(), rows.last()) {
            (Some(first), Some(last)) if rows.len() > page => {
                self.intake
                    .begin_paging(window, first.id, first.id, last.id);
            }
            _ => {
                self.take_in(window, rows);
                self.intake.end_window(window);
            }
        }
    }

    /// A writer sends the first row of a key. It may be told, or not (crash).
    fn send(&mut self, hash: u128, told: bool) {
        let Some(seq) = self
            .handed
            .get(&hash)
            .and_then(|rows| rows.front().copied())
        else {
            return;
        };
        let arrived = self.arrived.entry(hash).or_default();
        if arrived.contains(&seq) {
            self.duplicates += 1;
        } else {
            assert!(
                arrived.last().is_none_or(|last| *last < seq),
                "first occurrences out of order"
            );
            arrived.push(seq);
        }
        if told {
            self.handed.get_mut(&hash).expect("known").pop_front();
            self.settled.insert(seq.id);
            self.intake
                .settled(seq, hash, self.now)
                .expect("was handed");
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Begin,
    Insert { transaction: usize, hash: usize },
    End { transaction: usize, commit: bool },
    Read { times: usize },
    Send { hash: usize, told: bool },
    Settle { rows: usize },
    Pass { millis: u64 },
    Reshard { cuts: BTreeSet<usize> },
    Crash,
    HandOver,
}

fn step(crashes: u32, reshards: u32) -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Begin),
        10 => (0usize..4, 0usize..9).prop_map(|(transaction, hash)| Step::Insert { transaction, hash }),
        4 => (0usize..4, prop::bool::weighted(0.85)).prop_map(|(transaction, commit)| Step::End { transaction, commit }),
        10 => (1usize..4).prop_map(|times| Step::Read { times }),
        3 => (0usize..9, any::<bool>()).prop_map(|(hash, told)| Step::Send { hash, told }),
        5 => (1usize..12).prop_map(|rows| Step::Settle { rows }),
        3 => (1u64..600).prop_map(|millis| Step::Pass { millis }),
        reshards => prop::collection::btree_set(0usize..9, 0..5).prop_map(|cuts| Step::Reshard { cuts }),
        crashes => Just(Step::Crash),
    ]
}

fn hash_of(place: usize) -> u128 {
    (u128::MAX / 9) * place as u128 + 7
}

fn run(steps: Vec<Step>, limits: IntakeLimits, stuck: bool) -> World {
    let mut world = World::new(limits);
    let is_stuck = |hash: usize| stuck && hash < 3;
    for step in steps {
        match step {
            Step::Begin if world.database.running.len() < 4 => {
                world.database.next_xid += 1;
                let xid = world.database.next_xid;
                world.database.running.insert(xid);
            }
            Step::Begin => {}
            Step::Insert { transaction, hash } => {
                if let Some(xid) = world.database.running.iter().nth(transaction).copied() {
                    world.database.next_id += 1;
                    let id = world.database.next_id;
                    world.database.rows.push(Row {
                        id,
                        xid,
                        hash: hash_of(hash),
                    });
                }
            }
            Step::End {
                transaction,
                commit,
            } => {
                if let Some(xid) = world.database.running.iter().nth(transaction).copied() {
                    world.database.running.remove(&xid);
                    if !commit {
                        world.database.aborted.insert(xid);
                    }
                    world.intake.wake();
                }
            }
            Step::Read { times } => {
                for _ in 0..times {
                    world.read_once();
                }
            }
            Step::Send { hash, told } => {
                if !is_stuck(hash) {
                    world.send(hash_of(hash), told);
                }
            }
            Step::Settle { rows } => {
                for hash in (0..9).filter(|hash| !is_stuck(*hash)) {
                    for _ in 0..rows {
                        world.send(hash_of(hash), true);
                    }
                }
            }
            Step::Pass { millis } => world.now = world.now + Duration::from_millis(millis),
            Step::Reshard { cuts } => world.reshard(&cuts),
            Step::Crash => world.crash(),
            Step::HandOver => world.hand_over(),
        }
    }
    world
}

/// Ends all transactions, lets all lanes flow, and checks that all is delivered.
fn finish(world: &mut World) {
    world.database.running.clear();
    world.intake.wake();
    for _ in 0..100_000 {
        let read = world.read_once();
        for hash in 0..9 {
            for _ in 0..100 {
                world.send(hash_of(hash), true);
            }
        }
        world.now = world.now + Duration::from_millis(50);
        if !read && world.intake.is_idle() {
            break;
        }
    }
    assert!(world.intake.is_idle(), "never became idle");
    let committed = world
        .database
        .rows
        .iter()
        .filter(|row| !world.database.aborted.contains(&row.xid));
    let expected: BTreeSet<RowId> = committed.map(|row| row.id).collect();
    assert_eq!(world.settled, expected, "P-LOSS");
    world.save();
    assert!(world.durable.open.is_empty() && world.durable.marks.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_renumbered(
        steps in prop::collection::vec(step(1, 0), 1..400),
        rows in 2usize..40,
        merge_above in 1usize..8,
        stuck in any::<bool>(),
    ) {
        let limits = IntakeLimits { rows, stashed: 10_000, merge_above };
        let mut world = run(steps, limits, stuck);
        finish(&mut world);
    }

    /// One lane is stuck for all of the run, windows are merged as soon as they
    /// can be, and the relay crashes again while it still reads what it knew.
    #[test]
    fn merged_windows_and_marks_survive_crash_after_crash(
        rounds in prop::collection::vec(
            (1usize..4, 0usize..9, 0usize..9, 0usize..9, any::<bool>(), 0usize..6, prop::bool::weighted(0.04)), 100..250,
        ),
        rows in 4usize..12,
    ) {
        let limits = IntakeLimits { rows, stashed: 10_000, merge_above: 2 };
        let mut steps = Vec::new();
        for (open, a, b, c, told, reads, crash) in rounds {
            steps.extend([Step::Begin, Step::Begin]);
            steps.extend([a, b, c].map(|hash| Step::Insert { transaction: hash % open, hash }));
            steps.push(Step::End { transaction: a % 2, commit: true });
            steps.extend([Step::Read { times: reads }, Step::Settle { rows: 3 }, Step::Pass { millis: 300 }]);
            steps.extend([Step::Send { hash: b, told }]);
            steps.extend(crash.then_some(Step::Crash));
            steps.extend([Step::Read { times: reads }]);
        }
        let mut world = run(steps, limits, true);
        finish(&mut world);
    }
}
