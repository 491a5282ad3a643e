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

use std::time::Duration;

use super::lane::Lane;
use super::position::{Mark, OpenWindow, Position, RowId, Seq, WindowNumber};
use super::row::Envelope;
use super::shard_map::HashRange;
use super::snapshot::Snapshot;
use super::time::Moment;

/// The most rows read at once: larger pages gain little (postgres-facts: 2,000
/// rows a page read 500,000 rows/s, 500 rows a page half of it).
pub const PAGE: usize = 2000;

/// The least rows read at once, room permitting.
const LEAST_PAGE: usize = 64;

/// How long progress may stay unwritten: what a crash costs in duplicates.
const SAVE_EVERY: Duration = Duration::from_millis(200);

/// With more windows open, new ones are opened less often.
const WIDEN_ABOVE: usize = 256;
const WIDE_WINDOW: Duration = Duration::from_millis(100);

/// Marks are written when the oldest window has been open for so long: a shard
/// is behind then, not just a few milliseconds apart from the others.
const MARKS_AFTER: Duration = Duration::from_secs(1);

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

/// What the reader is to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Open a window after `seen`; when it has rows, write the position down with
    /// it, then hand its rows over.
    Open {
        /// What has been read already.
        seen: Snapshot,
        /// Rows read at once.
        page: usize,
    },
    /// Read a window again that an earlier incarnation wrote down.
    Reopen {
        /// Its number.
        window: WindowNumber,
        /// What was read before it.
        from: Snapshot,
        /// What it reaches up to.
        to: Snapshot,
        /// Rows read at once.
        page: usize,
    },
    /// Read the next page of a large window.
    Page {
        /// Its number.
        window: WindowNumber,
        /// What was read before it.
        from: Snapshot,
        /// What it reaches up to.
        to: Snapshot,
        /// Ids above this.
        after: RowId,
        /// See [`super::ports::WindowRows::Bounds`].
        first_fresh: RowId,
        /// Ids up to this.
        last: RowId,
        /// At most so many.
        page: usize,
    },
    /// Read stashed rows again.
    Refill {
        /// The lane they belong to.
        lane: usize,
        /// The rows, in order.
        rows: Vec<Seq>,
    },
    /// Write the position down.
    Save,
    /// Nothing before this moment, unless something changes.
    Wait {
        /// When to ask again.
        until: Option<Moment>,
    },
}

/// A row that was read and rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The row.
    pub envelope: Envelope,
    /// Since when it has been visible, at the earliest.
    pub visible_since: Moment,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Scan {
    /// All open windows have been read to their end.
    Done,
    /// This window is to be read, from above `after` on.
    Reopen { window: WindowNumber, after: RowId },
    /// This window is being read; `after` is the last id read.
    Paging {
        window: WindowNumber,
        after: RowId,
        first_fresh: RowId,
        last: RowId,
    },
}

impl Scan {
    const fn read_from_start(window: WindowNumber) -> Self {
        let after = RowId::MIN;
        Self::Reopen { window, after }
    }
}

/// The state of one reader.
#[derive(Debug)]
pub struct Intake {
    limits: IntakeLimits,
    recorded: Position,
    position: Position,
    opened_at: Vec<(WindowNumber, Moment)>,
    lanes: Vec<Lane>,
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
}

impl Intake {
    /// Starts from a recorded position, with something to read. The lanes are the shards' hash ranges,
    /// cut further where the recorded marks end; together they must cover all
    /// hash keys.
    #[must_use]
    pub fn new(
        recorded: Position,
        shards: &[HashRange],
        limits: IntakeLimits,
        now: Moment,
    ) -> Self {
        let ranges = refine(shards, &recorded.marks);
        let most_share = match ranges.len() {
            0 | 1 => limits.rows,
            _ => (limits.rows / 2).max(1),
        };
        let scan = recorded
            .open
            .first()
            .map_or(Scan::Done, |window| Scan::read_from_start(window.number));
        let highest_mark = recorded.marks.iter().map(|mark| mark.settled.window).max();
        Self {
            limits,
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
            recorded,
        }
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
        self.scan == Scan::Done && !self.news && self.first_unsettled().is_none()
    }

    /// Whether no handed row is waited for.
    #[must_use]
    pub fn nothing_handed(&self) -> bool {
        self.lanes.iter().all(|lane| lane.handed() == 0)
    }

    /// Whether the probe should watch for news: all known rows have been read.
    #[must_use]
    pub fn wants_news(&self) -> bool {
        self.scan == Scan::Done && !self.news
    }

    /// What to do next, with this room for rows to hand over.
    pub fn next_wish(&mut self, room: Room, now: Moment) -> Wish {
        if self.must_save {
            return Wish::Save;
        }
        if !self.stopped && room.rows > 0 && room.bytes > 0 {
            if let Some(refill) = self.next_refill(room, now) {
                return refill;
            }
            if let Some(read) = self.next_read(room, now) {
                return read;
            }
        }
        let save_at = self.saved_at + SAVE_EVERY;
        if self.dirty && now >= save_at {
            return Wish::Save;
        }
        let widened = self.news && self.may_open_at(now) > now;
        let until = match (self.dirty, widened) {
            (true, true) => Some(save_at.min(self.may_open_at(now))),
            (true, false) => Some(save_at),
            (false, true) => Some(self.may_open_at(now)),
            (false, false) => None,
        };
        Wish::Wait { until }
    }

    fn next_refill(&mut self, room: Room, now: Moment) -> Option<Wish> {
        for step in 0..self.lanes.len() {
            let place = (self.next_refill + step) % self.lanes.len();
            let lane = self.lanes.get_mut(place)?;
            lane.fit_share(now);
            let count = lane.refill().min(room.rows).min(PAGE);
            if count > 0 {
                self.next_refill = place + 1;
                return Some(Wish::Refill {
                    lane: place,
                    rows: lane.stash().peek(count),
                });
            }
        }
        None
    }

    fn next_read(&self, room: Room, now: Moment) -> Option<Wish> {
        let some_lane_is_hungry = self.lanes.iter().any(Lane::is_hungry);
        if !some_lane_is_hungry || self.stashed() >= self.limits.stashed {
            return None;
        }
        let free: usize = self.lanes.iter().map(Lane::free).sum();
        let page = free.clamp(LEAST_PAGE, PAGE).min(room.rows);
        match self.scan {
            Scan::Done if self.news && self.may_open_at(now) <= now => Some(Wish::Open {
                seen: self.position.head().clone(),
                page,
            }),
            Scan::Done => None,
            Scan::Reopen { window, .. } => {
                let (from, to) = self.bounds_of(window)?;
                Some(Wish::Reopen {
                    window,
                    from,
                    to,
                    page,
                })
            }
            Scan::Paging {
                window,
                after,
                first_fresh,
                last,
            } => {
                let (from, to) = self.bounds_of(window)?;
                Some(Wish::Page {
                    window,
                    from,
                    to,
                    after,
                    first_fresh,
                    last,
                    page,
                })
            }
        }
    }

    fn may_open_at(&self, now: Moment) -> Moment {
        match self.opened_at.last() {
            Some((_, opened)) if self.position.open.len() > WIDEN_ABOVE => *opened + WIDE_WINDOW,
            _ => now,
        }
    }

    fn bounds_of(&self, window: WindowNumber) -> Option<(Snapshot, Snapshot)> {
        let place = self
            .position
            .open
            .iter()
            .position(|open| open.number == window)?;
        let from = match place.checked_sub(1) {
            Some(before) => &self.position.open[before].snapshot,
            None => &self.position.base,
        };
        Some((from.clone(), self.position.open[place].snapshot.clone()))
    }

    // === How it went ===

    /// A fresh snapshot, taken at `taken_at`, showed nothing new: what follows is
    /// read from there.
    pub fn nothing_new(&mut self, snapshot: Snapshot, taken_at: Moment) {
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

    /// A window turned out to be larger than a page: it is read within these
    /// bounds (see [`super::ports::WindowRows::Bounds`]).
    pub fn begin_paging(
        &mut self,
        window: WindowNumber,
        first: RowId,
        first_fresh: RowId,
        last: RowId,
    ) {
        let is_first = |open: &&OpenWindow| open.number == window;
        let settled = self.recorded.open.first().filter(is_first);
        let settled_id = settled.map_or(RowId::MIN, |_| self.recorded.settled_id);
        let after = settled_id
            .max(first.saturating_sub(1))
            .max(self.read_in(window));
        self.scan = Scan::Paging {
            window,
            after,
            first_fresh,
            last,
        };
        self.news = true;
    }

    /// The last id read of a window that is being read.
    const fn read_in(&self, window: WindowNumber) -> RowId {
        match self.scan {
            Scan::Reopen {
                window: read,
                after,
            }
            | Scan::Paging {
                window: read,
                after,
                ..
            } if read.0 == window.0 => after,
            Scan::Done | Scan::Reopen { .. } | Scan::Paging { .. } => RowId::MIN,
        }
    }

    /// All rows of the window have been read; the next one follows.
    pub fn end_window(&mut self, window: WindowNumber) {
        let next = self.position.open.iter().find(|open| open.number > window);
        self.scan = next.map_or(Scan::Done, |open| Scan::read_from_start(open.number));
        self.dirty = true;
    }

    /// Reading stops before a row that cannot be sent; it goes on from there when
    /// it is resumed.
    pub const fn hold_before(&mut self, row: Seq) {
        self.stopped = true;
        if let Scan::Reopen { after, .. } | Scan::Paging { after, .. } = &mut self.scan {
            *after = row.id - 1;
        }
    }

    /// A row was read: hands it to its lane. Answers it when it goes to the
    /// writer now; otherwise it is stashed, or was settled by an earlier
    /// incarnation.
    pub fn take_in(&mut self, ready: Ready, room: &mut Room) -> Option<Envelope> {
        let seq = ready.envelope.seq;
        if seq.id <= self.read_in(seq.window) {
            return None;
        }
        if let Scan::Reopen { window, after } | Scan::Paging { window, after, .. } = &mut self.scan
            && *window == seq.window
        {
            *after = seq.id;
        }
        if self.recorded.has_settled(seq, ready.envelope.hash) {
            return None;
        }
        let place = self.lane_of(ready.envelope.hash);
        let lane = self.lanes.get_mut(place)?;
        if room.rows == 0 || room.bytes == 0 || !lane.takes_more() {
            lane.stash_row(seq);
            return None;
        }
        Self::hand(lane, ready, room)
    }

    /// A stashed row was read again: answers it to go to the writer.
    pub fn take_back(&mut self, lane: usize, ready: Ready, room: &mut Room) -> Option<Envelope> {
        let lane = self.lanes.get_mut(lane)?;
        if lane.stash().first() != Some(ready.envelope.seq) {
            return None;
        }
        lane.unstash();
        Self::hand(lane, ready, room)
    }

    /// A stashed row is gone from the outbox: there is nothing left to deliver.
    pub fn stashed_row_is_gone(&mut self, lane: usize, seq: Seq) {
        if let Some(lane) = self.lanes.get_mut(lane)
            && lane.stash().first() == Some(seq)
        {
            lane.unstash();
            self.dirty = true;
        }
    }

    fn hand(lane: &mut Lane, ready: Ready, room: &mut Room) -> Option<Envelope> {
        room.rows = room.rows.saturating_sub(1);
        room.bytes = room.bytes.saturating_sub(ready.envelope.weight());
        lane.hand(ready.envelope.seq, ready.visible_since);
        Some(ready.envelope)
    }

    /// A handed row is settled; answers since when it had been visible, or `None`
    /// when this incarnation did not hand it.
    pub fn settled(&mut self, seq: Seq, hash: u128, now: Moment) -> Option<Moment> {
        let place = self.lane_of(hash);
        let visible_since = self.lanes.get_mut(place)?.settle(seq, now)?;
        self.dirty = true;
        Some(visible_since)
    }

    fn lane_of(&self, hash: u128) -> usize {
        self.lanes.partition_point(|lane| lane.range().last < hash)
    }

    // === The position ===

    /// The position to write down now, after closing and merging what can be.
    pub fn position_to_save(&mut self, now: Moment) -> Position {
        self.close_settled();
        if self.position.open.len() > self.limits.merge_above {
            self.merge_windows();
        }
        self.position.marks = if self.needs_marks(now) {
            self.marks()
        } else {
            Vec::new()
        };
        self.position.clone()
    }

    /// The position was written down.
    pub const fn saved(&mut self, now: Moment) {
        self.dirty = false;
        self.must_save = false;
        self.saved_at = now;
    }

    fn first_unsettled(&self) -> Option<Seq> {
        self.lanes.iter().filter_map(Lane::first_unsettled).min()
    }

    /// The first row that has not been read, as far as windows are open.
    fn next_unread(&self) -> Option<Seq> {
        match self.scan {
            Scan::Done => None,
            Scan::Reopen { window, after } => Some(Seq {
                window,
                id: after.saturating_add(1),
            }),
            Scan::Paging { window, after, .. } => Some(Seq {
                window,
                id: after.saturating_add(1),
            }),
        }
    }

    fn close_settled(&mut self) {
        let held_by = self
            .first_unsettled()
            .into_iter()
            .chain(self.next_unread())
            .min();
        let closed = match held_by {
            None => self.position.open.len(),
            Some(row) => self
                .position
                .open
                .partition_point(|open| open.number < row.window),
        };
        if closed > 0 {
            self.position.base = self.position.open[closed - 1].snapshot.clone();
            self.position.open.drain(..closed);
            self.opened_at.drain(..closed.min(self.opened_at.len()));
            self.position.settled_id = 0;
        }
        let in_first = |row: &Seq| {
            self.position
                .open
                .first()
                .is_some_and(|open| open.number == row.window)
        };
        if let Some(row) = held_by.filter(in_first) {
            let settled_before = self
                .recorded
                .open
                .first()
                .filter(|open| open.number == row.window);
            let floor = settled_before.map_or(0, |_| self.recorded.settled_id);
            self.position.settled_id = row.id.saturating_sub(1).max(floor);
        }
    }

    fn needs_marks(&self, now: Moment) -> bool {
        let Some((oldest, opened)) = self.opened_at.first() else {
            return false;
        };
        *oldest <= self.marks_up_to || now.since(*opened) >= MARKS_AFTER
    }

    /// What each lane has settled beyond the first open window. A lane whose
    /// recorded mark lies beyond what has been read again keeps that mark.
    fn marks(&self) -> Vec<Mark> {
        let Some(first) = self.position.open.first() else {
            return Vec::new();
        };
        let frontier = match self.next_unread() {
            Some(next) => Seq {
                window: next.window,
                id: next.id.saturating_sub(1),
            },
            None => Seq {
                window: self.position.last_number,
                id: RowId::MAX,
            },
        };
        let prefix = Seq {
            window: first.number,
            id: self.position.settled_id,
        };
        let mut marks = Vec::new();
        for lane in &self.lanes {
            let reached = match lane.first_unsettled() {
                Some(row) => Seq {
                    window: row.window,
                    id: row.id.saturating_sub(1),
                },
                None => frontier,
            };
            let recorded = self
                .recorded
                .marks
                .iter()
                .find(|mark| mark.range.contains(lane.range().first));
            let settled = match (lane.first_unsettled(), recorded) {
                (None, Some(mark)) => reached.max(mark.settled),
                _ => reached,
            };
            if settled > prefix {
                marks.push(Mark {
                    range: lane.range(),
                    settled,
                });
            }
        }
        marks
    }

    /// Merges neighbouring windows of which no row was handed, none is being
    /// read, none may have been sent by an earlier incarnation, and in which no
    /// lane's mark lies.
    fn merge_windows(&mut self) {
        let mut fixed: std::collections::BTreeSet<WindowNumber> = self
            .lanes
            .iter()
            .flat_map(|lane| {
                lane.windows_handed()
                    .chain(lane.first_unsettled().map(|row| row.window))
            })
            .chain(self.next_unread().map(|row| row.window))
            .collect();
        fixed.extend(self.position.open.first().map(|open| open.number));
        fixed.extend(self.position.open.last().map(|open| open.number));
        let unmergeable = self.unmergeable_up_to;
        let may_merge = |window: &WindowNumber| *window > unmergeable && !fixed.contains(window);
        let numbers: Vec<WindowNumber> =
            self.position.open.iter().map(|open| open.number).collect();
        for group in numbers.chunk_by(|a, b| may_merge(a) && may_merge(b)) {
            let (Some(from), Some(to)) = (group.first(), group.last()) else {
                continue;
            };
            if group.len() < 2 {
                continue;
            }
            self.position
                .open
                .retain(|open| open.number < *from || open.number >= *to);
            self.opened_at
                .retain(|(number, _)| *number < *from || *number >= *to);
            for lane in &mut self.lanes {
                lane.merge_windows(*from, *to);
            }
            self.marks_up_to = self.marks_up_to.max(*to);
            self.must_save = true;
        }
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
        self.lanes.iter().map(|lane| lane.stash().len()).sum()
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
            lane.first_unsettled()
                .map(|seq| (seq, lane.waiting_since()))
        };
        self.lanes
            .iter()
            .filter_map(with_age)
            .min_by_key(|(seq, _)| *seq)
    }
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
