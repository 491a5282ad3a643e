//! What a reader has read, handed on and seen settled; what it does next.
//!
//! The rows of a pipeline come in windows (see [`super::position`]). The intake
//! reads window after window, page after page, and puts each row into the lane
//! of its hash key: handed to the writer, or stashed when the lane or the permits
//! are full. It asks for one thing at a time ([`Wish`]), and is told how it went.
//!
//! Rules:
//! - a window is written down before its first row is handed, so that a restart
//!   reads the same windows under the same numbers (`seq` is stable);
//! - the position never passes a row that is not settled (P-LOSS): what it says
//!   is derived from the first unsettled row of every lane, never counted;
//! - rows of a lane are handed in delivery order (P-ORDER): once one is stashed,
//!   all later ones of that lane are, until it is empty again;
//! - reading goes on while some lane is hungry: a stuck shard stops only itself;
//! - many open windows (a stuck shard holds the base back) are merged where no
//!   row of them was handed and no mark lies inside. The merged rows take the
//!   highest number; the position is written before any of them is handed.

mod leaving;
pub mod parking;
mod record;
mod resent;
mod resharding;
mod scan;
mod wish;

use super::dead_letter::OnPoison;
use super::invariants::{self, Books, Invariant, Violations};
use super::lane::Lane;
use super::position::{Mark, OpenWindow, Position, Seq, WindowNumber};
use super::row::Envelope;
use super::sabotage::{self, Bug};
use super::shard_map::HashRange;
use super::snapshot::Snapshot;
use super::time::Moment;

use parking::Parking;
use resharding::{Backlog, most_share};
use scan::Scan;

pub use resharding::StashOf;
pub use wish::{PAGE, Wish};

/// The bounds of one pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntakeLimits {
    /// Rows handed and not settled.
    pub rows: usize,
    /// Rows remembered by id alone, 8 bytes each.
    pub stashed: usize,
    /// With more windows open than this, those that can be are merged.
    pub merge_above: usize,
}

/// What may be handed at a moment: permits, and the pipeline's rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Rows.
    pub rows: usize,
    /// Bytes; the last row may exceed them.
    pub bytes: usize,
}

/// A row that was read and rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The row.
    pub envelope: Envelope,
    /// Since when it has been visible, at the earliest.
    pub visible_since: Moment,
}

/// The state of one reader.
#[derive(Debug)]
pub struct Intake {
    limits: IntakeLimits,
    keyed_by: String,
    /// Settled rows that the last position had no room to name.
    unnamed: usize,
    recorded: Position,
    position: Position,
    opened_at: Vec<(WindowNumber, Moment)>,
    /// The hash ranges of the shards.
    shards: Vec<HashRange>,
    /// By hash range: each lies within one shard.
    lanes: Vec<Lane>,
    /// What was stashed in lanes that were cut, in the order it is read again,
    /// before anything new is read.
    backlogs: Vec<Backlog>,
    scan: Scan,
    news: bool,
    stopped: bool,
    head_taken_at: Option<Moment>,
    next_refill: usize,
    dirty: bool,
    must_save: bool,
    saved_at: Moment,
    marks_up_to: WindowNumber,
    unmergeable_up_to: WindowNumber,
    books: Books,
    violations: Violations,
    parking: Parking,
}

impl Intake {
    /// Starts from a recorded position, with something to read. The lanes are the shards' hash ranges,
    /// cut further where the recorded marks end; together they must cover all
    /// hash keys. `keyed_by` says what hash keys are made from; recorded marks that
    /// were made from something else are forgotten.
    #[must_use]
    pub fn new(
        mut recorded: Position,
        keyed_by: &str,
        shards: &[HashRange],
        limits: IntakeLimits,
        now: Moment,
    ) -> Self {
        if recorded.keyed_by != keyed_by {
            // The rows hash differently now: the marks say nothing of them.
            recorded.marks.clear();
        }
        recorded.marks.sort_by_key(|mark| mark.range);
        let ranges = refine(shards, &recorded.marks);
        let most_share = most_share(ranges.len(), limits);
        let scan = recorded
            .open
            .first()
            .map_or(Scan::Done, |window| Scan::read_from_start(window.number));
        let highest_mark = recorded.marks.iter().map(|mark| mark.settled.window).max();
        Self {
            limits,
            keyed_by: keyed_by.to_owned(),
            unnamed: 0,
            position: recorded.clone(),
            opened_at: recorded
                .open
                .iter()
                .map(|window| (window.number, now))
                .collect(),
            lanes: ranges
                .into_iter()
                .map(|range| Lane::new(range, most_share, now))
                .collect(),
            shards: shards.to_vec(),
            backlogs: Vec::new(),
            scan,
            news: true,
            stopped: false,
            head_taken_at: None,
            next_refill: 0,
            dirty: false,
            must_save: false,
            saved_at: now,
            marks_up_to: highest_mark.unwrap_or_default(),
            unmergeable_up_to: recorded.last_number,
            books: Books::default(),
            violations: Violations::default(),
            recorded,
            parking: Parking::default(),
        }
    }

    /// How many lanes there are: at least as many as shards.
    #[must_use]
    pub const fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// What becomes of rows that cannot be sent; parked unless this is said.
    #[must_use]
    pub fn with_policy(mut self, policy: OnPoison) -> Self {
        self.parking = Parking::new(policy);
        self
    }

    // === What to do next ===

    /// There is something new in the outbox.
    pub const fn wake(&mut self) {
        self.news = true;
    }

    /// Reads nothing more; what was handed is still seen settled.
    pub const fn stop_reading(&mut self) {
        self.stopped = true;
    }

    /// Whether reading is stopped.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.stopped
    }

    /// Goes on reading after [`Self::stop_reading`].
    pub const fn resume_reading(&mut self) {
        self.stopped = false;
    }

    /// Whether all that was read is settled, and nothing more is known of.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.scan == Scan::Done
            && !self.news
            && self.letters() == 0
            && self.first_unsettled().is_none()
    }

    /// Whether the probe should watch for news: all known rows have been read.
    #[must_use]
    pub fn wants_news(&self) -> bool {
        self.scan == Scan::Done && !self.news
    }

    // === How it went ===

    /// A fresh snapshot, taken at `taken_at`, showed nothing new: what follows is
    /// read from there.
    pub fn nothing_new(&mut self, snapshot: Snapshot, taken_at: Moment) {
        let snapshot = believed(snapshot);
        self.news = false;
        self.head_taken_at = Some(taken_at);
        match self.position.open.last_mut() {
            Some(window) => window.snapshot = snapshot,
            None => self.position.base = snapshot,
        }
    }

    /// The probe's snapshot showed nothing new; taken only while the reader waits
    /// for news.
    pub fn advance_head(&mut self, snapshot: Snapshot, taken_at: Moment) {
        if self.wants_news() && snapshot.covers(self.position.head()) {
            self.nothing_new(snapshot, taken_at);
        }
    }

    /// A window with rows was opened: answers its number. It must be written down
    /// before its rows are handed.
    pub fn open_window(&mut self, snapshot: Snapshot, taken_at: Moment) -> WindowNumber {
        let snapshot = believed(snapshot);
        let number = self.position.last_number.next();
        self.position.last_number = number;
        self.position.open.push(OpenWindow { number, snapshot });
        self.opened_at.push((number, taken_at));
        self.scan = Scan::read_from_start(number);
        self.news = false;
        self.must_save = true;
        self.head_taken_at = Some(taken_at);
        number
    }

    /// When the snapshot before the newest one was taken: rows of a new window
    /// became visible after it.
    #[must_use]
    pub const fn head_taken_at(&self) -> Option<Moment> {
        self.head_taken_at
    }

    /// A row was read: hands it to its lane. Answers it when it goes to the
    /// writer now; otherwise it is stashed, or was settled by an earlier
    /// incarnation.
    pub fn take_in(&mut self, ready: Ready, room: &mut Room) -> Option<Envelope> {
        let seq = ready.envelope.seq;
        if !self.read_on_to(seq) {
            return None;
        }
        if self.recorded.has_settled(seq, ready.envelope.hash) {
            return None;
        }
        self.books.read += 1;
        let hash = ready.envelope.hash;
        if let Some(place) = self.last_backlog_of(hash) {
            self.backlogs.get_mut(place)?.rows.push(seq);
            return None;
        }
        self.sort(ready, room)
    }

    /// Hands a row, stashes it in its lane, or parks it behind a poison row of its
    /// key. No earlier row of the lane waits elsewhere.
    fn sort(&mut self, ready: Ready, room: &mut Room) -> Option<Envelope> {
        let hash = ready.envelope.hash;
        let is_behind_poison = self.is_behind_poison(hash);
        let place = self.lane_of(hash);
        let lane = self.lanes.get_mut(place)?;
        if is_behind_poison && lane.stash().is_empty() {
            self.park_behind(&ready);
            return None;
        }
        Self::hand_or_stash(lane, ready, room, &mut self.violations)
    }

    /// A stashed row was read again: answers it to go to the writer.
    pub fn take_back(&mut self, from: StashOf, ready: Ready, room: &mut Room) -> Option<Envelope> {
        let StashOf::Lane(lane) = from else {
            return self.sort_in(ready, room);
        };
        let is_behind_poison = self.is_behind_poison(ready.envelope.hash);
        let lane = self.lanes.get_mut(lane)?;
        if lane.stash().first() != Some(ready.envelope.seq) {
            return None;
        }
        lane.unstash();
        if is_behind_poison {
            self.park_behind(&ready);
            return None;
        }
        Self::hand(lane, ready, room, &mut self.violations)
    }

    /// A stashed row is gone from the outbox: there is nothing left to deliver.
    pub fn stashed_row_is_gone(&mut self, from: StashOf, seq: Seq) {
        if self.take_out(from, seq) {
            self.books.gone += 1;
            self.dirty = true;
        }
    }

    /// Removes a row from where it is stashed, if it is the first there.
    fn take_out(&mut self, from: StashOf, seq: Seq) -> bool {
        match from {
            StashOf::Backlog => self.leave_backlog(seq),
            StashOf::Lane(lane) => self.lanes.get_mut(lane).is_some_and(|lane| {
                let is_first = lane.stash().first() == Some(seq);
                is_first && lane.unstash().is_some()
            }),
        }
    }

    fn hand_or_stash(
        lane: &mut Lane,
        ready: Ready,
        room: &mut Room,
        violations: &mut Violations,
    ) -> Option<Envelope> {
        if room.rows == 0 || room.bytes == 0 || !lane.takes_more() {
            lane.stash_row(ready.envelope.seq);
            return None;
        }
        Self::hand(lane, ready, room, violations)
    }

    fn hand(
        lane: &mut Lane,
        ready: Ready,
        room: &mut Room,
        violations: &mut Violations,
    ) -> Option<Envelope> {
        let (last, seq) = (lane.last_handed(), &ready.envelope.seq);
        violations.check(Invariant::Order, invariants::rises(last, seq), || {
            format!("row {seq} is handed after {last:?}")
        });
        room.rows = room.rows.saturating_sub(1);
        room.bytes = room.bytes.saturating_sub(ready.envelope.memory());
        let envelope = &ready.envelope;
        lane.hand(envelope.seq, envelope.hash, ready.visible_since);
        Some(ready.envelope)
    }

    /// A handed row is settled; answers since when it had been visible, or `None`
    /// when this incarnation did not hand it.
    pub fn settled(&mut self, seq: Seq, hash: u128, now: Moment) -> Option<Moment> {
        let place = self.lane_of(hash);
        let visible_since = self.lanes.get_mut(place)?.settle(seq, now)?;
        self.books.delivered += 1;
        self.dirty = true;
        Some(visible_since)
    }

    fn lane_of(&self, hash: u128) -> usize {
        self.lanes.partition_point(|lane| lane.range().last < hash)
    }

    fn first_unsettled(&self) -> Option<Seq> {
        let in_backlogs = self
            .backlogs
            .iter()
            .filter_map(|backlog| backlog.rows.first());
        let in_lanes = self.lanes.iter().filter_map(Lane::first_unsettled);
        let in_letters = self.parking.first();
        in_lanes.chain(in_backlogs).chain(in_letters).min()
    }

    // === For metrics ===

    /// Rows handed and not settled in order.
    #[must_use]
    pub fn handed(&self) -> usize {
        self.lanes.iter().map(Lane::handed).sum()
    }

    /// Rows remembered by id alone.
    #[must_use]
    pub fn stashed(&self) -> usize {
        let in_backlogs = self.backlogs.iter().map(|backlog| backlog.rows.len());
        let in_lanes = self.lanes.iter().map(|lane| lane.stash().len());
        in_lanes.chain(in_backlogs).sum()
    }

    /// Windows open.
    #[must_use]
    pub const fn open_windows(&self) -> usize {
        self.position.open.len()
    }

    /// What has been read.
    #[must_use]
    pub fn head(&self) -> &Snapshot {
        self.position.head()
    }

    /// What has been read to its end: the head, or what came before the window
    /// that is being read.
    #[must_use]
    pub fn read_up_to(&self) -> Snapshot {
        let reading = self
            .next_unread()
            .and_then(|row| self.bounds_of(row.window));
        reading.map_or_else(|| self.head().clone(), |(from, _)| from)
    }

    /// The first row that is not settled, and since when it has been visible if
    /// that is known.
    #[must_use]
    pub fn oldest(&self) -> Option<(Seq, Option<Moment>)> {
        let with_age = |lane: &Lane| {
            self.first_unsettled_of(lane)
                .map(|seq| (seq, lane.waiting_since()))
        };
        self.lanes
            .iter()
            .filter_map(with_age)
            .min_by_key(|(seq, _)| *seq)
    }
}

/// What a snapshot is taken for.
fn believed(snapshot: Snapshot) -> Snapshot {
    if sabotage::is(Bug::SkipLateCommitters) {
        let xmax = snapshot.xmax();
        return Snapshot::new(xmax, xmax, Vec::new()).unwrap_or(snapshot);
    }
    snapshot
}

/// Cuts the shards' ranges where marks begin and end, so that each piece is
/// wholly inside or outside of every mark.
fn refine(shards: &[HashRange], marks: &[Mark]) -> Vec<HashRange> {
    let mut firsts: std::collections::BTreeSet<u128> =
        shards.iter().map(|range| range.first).collect();
    firsts.insert(0);
    for mark in marks {
        firsts.insert(mark.range.first);
        firsts.extend(mark.range.last.checked_add(1));
    }
    let firsts: Vec<u128> = firsts.into_iter().collect();
    let mut ranges = Vec::with_capacity(firsts.len());
    for (place, first) in firsts.iter().enumerate() {
        let last = firsts.get(place + 1).map_or(u128::MAX, |next| next - 1);
        ranges.push(HashRange {
            first: *first,
            last,
        });
    }
    ranges
}

#[cfg(test)]
mod tests;
