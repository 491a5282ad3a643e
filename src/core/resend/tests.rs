//! Replays beside a live flow, with full lanes, lost connections and crashes,
//! against a consumer that drops `seq <= last seen of that key`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::core::intake::{Intake, IntakeLimits, Ready, Room, Wish};
use crate::core::position::{Position, WindowNumber};
use crate::core::row::Envelope;
use crate::core::shard_map::HashRange;
use crate::core::snapshot::{Snapshot, Xid};

const KEYS: usize = 6;
const HALF: u128 = u128::MAX / 2;
/// The replay asks for every row up to this one.
const REPLAYED_TO: RowId = 30;

fn hash_of(key: usize) -> u128 {
    (u128::MAX / KEYS as u128) * key as u128 + 7
}

fn lanes() -> [HashRange; 2] {
    [(0, HALF), (HALF + 1, u128::MAX)].map(|(first, last)| HashRange { first, last })
}

fn ready(seq: Seq, hash: u128) -> Ready {
    let (key, body) = (Arc::from("k"), Bytes::from_static(b"{}"));
    let envelope = Envelope {
        seq,
        key,
        hash,
        body,
    };
    let visible_since = Moment::ORIGIN;
    Ready {
        envelope,
        visible_since,
    }
}

/// One row per transaction: ids rise with inserts, visibility with commits.
#[derive(Clone, Copy)]
struct Row {
    id: RowId,
    xid: Xid,
    hash: u128,
}

/// What the database, the stream and a consumer know: it survives crashes.
#[derive(Default)]
struct World {
    rows: Vec<Row>,
    running: BTreeSet<Xid>,
    durable: Option<Position>,
    request: Option<ReplayRequest>,
    finished: bool,
    last_seen: HashMap<u128, Seq>,
    accepted: BTreeMap<RowId, usize>,
    first_order: HashMap<u128, Vec<RowId>>,
    live_seq: BTreeMap<RowId, Seq>,
}

impl World {
    fn snapshot(&self) -> Snapshot {
        let xmax = self.rows.len() as Xid + 10;
        let xip: Vec<Xid> = self.running.iter().copied().collect();
        Snapshot::new(xip.first().copied().unwrap_or(xmax), xmax, xip).expect("well formed")
    }

    fn window(&self, from: &Snapshot, to: &Snapshot) -> Vec<Row> {
        let inside = |row: &&Row| to.sees(row.xid) && !from.sees(row.xid);
        self.rows.iter().filter(inside).copied().collect()
    }

    fn arrives(&mut self, seq: Seq, hash: u128) {
        let last = self.last_seen.get(&hash);
        if last.is_some_and(|last| seq <= *last) {
            return;
        }
        self.last_seen.insert(hash, seq);
        let times = self.accepted.entry(seq.id).or_default();
        *times += 1;
        if *times == 1 {
            self.first_order.entry(hash).or_default().push(seq.id);
        }
    }
}

/// One incarnation of a reader with the queues of its writers.
struct Reader {
    intake: Intake,
    resend: Resend,
    queues: HashMap<u128, VecDeque<Seq>>,
    /// Given by the test: how many rows may be on their way.
    room: usize,
    now: Moment,
    live_first: bool,
}

impl Reader {
    fn new(world: &World, room: usize) -> Self {
        let now = Moment::ORIGIN;
        let position = world.durable.clone().unwrap_or_else(Position::start);
        let limits = IntakeLimits {
            rows: room,
            stashed: 10_000,
            merge_above: 2,
        };
        Self {
            intake: Intake::new(position, "", &lanes(), limits, now),
            resend: Resend::new(3, now),
            queues: HashMap::new(),
            room,
            now,
            live_first: false,
        }
    }

    fn room(&self) -> Room {
        let used: usize = self.queues.values().map(VecDeque::len).sum();
        let (rows, bytes) = (self.room.saturating_sub(used), 1 << 30);
        Room { rows, bytes }
    }

    fn save(&mut self, world: &mut World) {
        world.durable = Some(self.intake.position_to_save(self.now));
        self.intake.saved(self.now);
    }

    fn take_in(&mut self, world: &mut World, window: WindowNumber, rows: &[Row]) {
        let mut room = self.room();
        for row in rows {
            let seq = Seq { window, id: row.id };
            if let Some(taken) = self.intake.take_in(ready(seq, row.hash), &mut room) {
                self.hand_live(world, &taken);
            }
        }
        self.intake.end_window(window);
    }

    fn hand_live(&mut self, world: &mut World, envelope: &Envelope) {
        world.live_seq.insert(envelope.seq.id, envelope.seq);
        let queue = self.queues.entry(envelope.hash).or_default();
        queue.push_back(envelope.seq);
    }

    /// As the reader's actor does it: rows sent again and live ones take turns.
    fn step(&mut self, world: &mut World) {
        if !std::mem::take(&mut self.live_first) && self.resend_step(world) {
            self.live_first = true;
            return;
        }
        match self.intake.next_wish(self.room(), self.now) {
            Wish::Open { seen, .. } => {
                let snapshot = world.snapshot();
                let rows = world.window(&seen, &snapshot);
                if rows.is_empty() {
                    return self.intake.nothing_new(snapshot, self.now);
                }
                let window = self.intake.open_window(snapshot, self.now);
                self.save(world);
                self.take_in(world, window, &rows);
            }
            Wish::Reopen {
                window, from, to, ..
            } => {
                let rows = world.window(&from, &to);
                self.take_in(world, window, &rows);
            }
            Wish::Refill { lane, rows } => {
                let mut room = self.room();
                for seq in rows {
                    let row = world.rows.iter().find(|row| row.id == seq.id);
                    let row = ready(seq, row.expect("kept").hash);
                    if let Some(taken) = self.intake.take_back(lane, row, &mut room) {
                        self.hand_live(world, &taken);
                    }
                }
            }
            Wish::Save => self.save(world),
            Wish::Page { .. } => panic!("windows are smaller than a page here"),
            Wish::Wait { .. } => {}
        }
    }

    fn resend_step(&mut self, world: &mut World) -> bool {
        let may_hand = self.intake.may_resend();
        match self.resend.next_wish(may_hand, self.room().rows, self.now) {
            ResendWish::Look => self.resend.looked(world.request.clone()),
            ResendWish::Read { after, to, limit } => {
                let seen = self.intake.head().clone();
                let wanted = |row: &&Row| row.id > after && row.id <= to && seen.sees(row.xid);
                let rows: Vec<Row> = world
                    .rows
                    .iter()
                    .filter(wanted)
                    .copied()
                    .take(limit)
                    .collect();
                let ids: Vec<RowId> = rows.iter().map(|row| row.id).collect();
                self.resend.rows_read(after, &ids, rows.len() < limit);
                let takes = |row: &&Row| {
                    self.resend.is_wanted(row.id) && self.intake.takes_resent(row.hash)
                };
                let free = self.resend.free();
                let rows: Vec<Row> = rows.iter().filter(takes).take(free).copied().collect();
                self.resend.passed(rows.len(), self.now);
                if rows.is_empty() {
                    return true;
                }
                let window = self.intake.number_resend();
                self.save(world);
                for row in rows {
                    let seq = Seq { window, id: row.id };
                    self.resend.hand(seq);
                    self.queues.entry(row.hash).or_default().push_back(seq);
                }
            }
            ResendWish::Save(progress) => {
                let request = world.request.as_mut().expect("it is of a request");
                assert!(progress.next >= request.next, "progress went back");
                request.next = progress.next;
                if progress.done {
                    world.request = None;
                    world.finished = true;
                }
                self.resend.saved(&progress, true, self.now);
            }
            ResendWish::Wait { .. } => return false,
        }
        true
    }

    fn send(&mut self, world: &mut World, key: usize, told: bool) {
        let hash = hash_of(key);
        let Some(seq) = self
            .queues
            .get(&hash)
            .and_then(|queue| queue.front().copied())
        else {
            return;
        };
        world.arrives(seq, hash);
        if told {
            self.queues.entry(hash).or_default().pop_front();
            if !self.resend.settled(seq) {
                self.intake.settled(seq, hash, self.now).expect("handed");
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Insert { key: usize },
    Commit { place: usize },
    Step { times: usize },
    Send { key: usize, told: bool },
    Pass { millis: u64 },
    Ask,
    Crash,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..KEYS).prop_map(|key| Event::Insert { key }),
        7 => (0usize..4).prop_map(|place| Event::Commit { place }),
        10 => (1usize..5).prop_map(|times| Event::Step { times }),
        9 => (0..KEYS, prop::bool::weighted(0.9)).prop_map(|(key, told)| Event::Send { key, told }),
        2 => (1u64..400).prop_map(|millis| Event::Pass { millis }),
        1 => Just(Event::Ask),
        1 => Just(Event::Crash),
    ]
}

fn check(events: Vec<Event>, room: usize) {
    let mut world = World::default();
    let mut reader = Reader::new(&world, room);
    let mut read_when_asked = BTreeSet::new();
    for event in events {
        match event {
            Event::Insert { key } => {
                let xid = world.rows.len() as Xid + 10;
                let (id, hash) = (world.rows.len() as RowId + 1, hash_of(key));
                world.rows.push(Row { id, xid, hash });
                world.running.insert(xid);
            }
            Event::Commit { place } => {
                if let Some(xid) = world.running.iter().nth(place).copied() {
                    world.running.remove(&xid);
                    reader.intake.wake();
                }
            }
            Event::Step { times } => (0..times).for_each(|_| reader.step(&mut world)),
            Event::Send { key, told } => reader.send(&mut world, key, told),
            Event::Pass { millis } => reader.now = reader.now + Duration::from_millis(millis),
            Event::Ask if world.request.is_none() && !world.finished => {
                world.request = Some(ReplayRequest {
                    id: 1,
                    from: 1,
                    to: REPLAYED_TO,
                    next: 1,
                    sent: 0,
                    skipped: 0,
                });
                read_when_asked = world.accepted.keys().copied().collect();
                reader.resend.notice();
            }
            Event::Ask => {}
            Event::Crash => reader = Reader::new(&world, room),
        }
    }
    world.running.clear();
    reader.intake.wake();
    for _ in 0..20_000 {
        reader.step(&mut world);
        for key in 0..KEYS {
            reader.send(&mut world, key, true);
        }
        reader.now = reader.now + Duration::from_millis(30);
        if reader.intake.is_idle() && world.request.is_none() && reader.resend.handed() == 0 {
            break;
        }
    }
    assert!(reader.intake.is_idle(), "the live flow came to rest");
    assert!(world.request.is_none(), "the replay came to its end");
    for row in &world.rows {
        let times = world.accepted.get(&row.id).copied().unwrap_or(0);
        assert!(times > 0, "the consumer lost row {}", row.id);
        if row.id > REPLAYED_TO {
            assert_eq!(times, 1, "row {} was not asked for", row.id);
        }
        if row.id <= REPLAYED_TO && read_when_asked.contains(&row.id) {
            assert!(times > 1, "row {} was not sent again", row.id);
        }
    }
    for ids in world.first_order.values() {
        let seqs: Vec<Seq> = ids.iter().map(|id| world.live_seq[id]).collect();
        assert!(seqs.is_sorted(), "first occurrences out of order: {ids:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_replay_costs_a_consumer_no_live_row(
        events in prop::collection::vec(event(), 1..400), room in 2usize..20,
    ) {
        check(events, room);
    }
}

fn replay(next: RowId, to: RowId) -> Resend {
    let mut resend = Resend::new(10, Moment::ORIGIN);
    resend.looked(Some(ReplayRequest {
        id: 7,
        from: 1,
        to,
        next,
        sent: 4,
        skipped: 2,
    }));
    resend
}

fn seq(window: u64, id: RowId) -> Seq {
    let window = WindowNumber(window);
    Seq { window, id }
}

#[test]
fn progress_stops_below_the_first_row_that_is_not_confirmed() {
    let mut resend = replay(1, 100);
    resend.rows_read(0, &[10, 20, 30], true);
    for id in [10, 20, 30] {
        resend.hand(seq(5, id));
    }
    assert!(resend.settled(seq(5, 10)) && resend.settled(seq(5, 30)));
    let progress = resend.last_progress().expect("it moved");
    assert_eq!(
        (progress.next, progress.sent, progress.done),
        (20, 6, false),
        "as a relay before this one left it, and two more"
    );
    resend.saved(&progress, true, Moment::ORIGIN);
    assert_eq!(resend.last_progress(), None, "all of it is written");
    assert!(!resend.settled(seq(4, 20)), "another number is another row");
    assert!(resend.rejected(seq(5, 20)));
    let progress = resend.last_progress().expect("it moved");
    assert_eq!(
        (progress.skipped, progress.next, progress.done),
        (3, 101, true)
    );
}

#[test]
fn a_row_that_was_deleted_while_it_waited_holds_nothing_up() {
    let mut resend = replay(1, 9);
    resend.rows_read(0, &[3, 5], true);
    resend.rows_read(2, &[5], true);
    assert!(!resend.is_wanted(3) && resend.is_wanted(5));
    resend.skip(5);
    assert!(resend.last_progress().expect("it moved").done);
}

#[test]
fn a_cancelled_replay_is_dropped_and_the_next_one_looked_for() {
    let mut resend = replay(1, 9);
    resend.rows_read(0, &[3], true);
    resend.hand(seq(2, 3));
    let progress = resend.last_progress().expect("it moved");
    resend.saved(&progress, false, Moment::ORIGIN);
    assert_eq!(resend.next_wish(true, 9, Moment::ORIGIN), ResendWish::Look);
    assert!(resend.settled(seq(2, 3)), "its row is still no live one");
}

#[test]
fn a_row_of_a_cancelled_replay_settles_nothing_of_the_next_one() {
    let mut resend = replay(1, 9);
    resend.rows_read(0, &[3, 5], true);
    resend.hand(seq(2, 3));
    resend.hand(seq(2, 5));
    let progress = resend.last_progress().expect("it moved");
    resend.saved(&progress, false, Moment::ORIGIN);
    let cancelled = progress.request;
    resend.looked(Some(ReplayRequest {
        id: cancelled + 1,
        from: 1,
        to: 9,
        next: 1,
        sent: 0,
        skipped: 0,
    }));
    resend.rows_read(0, &[3, 5], true);
    resend.hand(seq(4, 5));
    assert!(resend.settled(seq(2, 3)) && resend.settled(seq(2, 5)));
    assert!(resend.is_wanted(3), "it was sent before it was asked for");
    let progress = resend.last_progress().expect("it was looked at");
    assert_eq!((progress.sent, progress.next, progress.done), (0, 3, false));
    resend.hand(seq(6, 3));
    assert!(resend.settled(seq(6, 3)) && resend.settled(seq(4, 5)));
    assert!(resend.last_progress().expect("it moved").done);
}
