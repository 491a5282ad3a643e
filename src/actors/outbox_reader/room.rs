//! What a reader may read: permits, reserved before rows are read (see
//! [`crate::actors::reservation`]).

use super::OutboxReader;
use super::work::{End, Item};
use crate::actors::reservation::{NeedsRoom, Reservation};
use crate::core::intake::Room;
use crate::core::position::RowId;
use crate::core::row::ROW_OVERHEAD;
use crate::core::time::Moment;

/// A row that needed more room is forgotten after so many reads that were for others:
/// it may have been deleted.
const MOST_OTHER_READS: u32 = 256;

/// Whether rows are read for the live flow, or to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    Live,
    Again,
}

/// What the next reads must have room for, and what is reserved for the one under way.
#[derive(Debug, Default)]
pub(super) struct ReadingRoom {
    live: Option<Waiting>,
    again: Option<Waiting>,
    /// Holds for the rows of a read until they are handed.
    pub(super) reserved: Option<Reservation>,
}

/// A row that waits for room.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    needs: NeedsRoom,
    other_reads: u32,
}

impl ReadingRoom {
    const fn of(&mut self, reading: Reading) -> &mut Option<Waiting> {
        match reading {
            Reading::Live => &mut self.live,
            Reading::Again => &mut self.again,
        }
    }

    const fn needs(&self, reading: Reading) -> Option<NeedsRoom> {
        let waiting = match reading {
            Reading::Live => self.live,
            Reading::Again => self.again,
        };
        match waiting {
            Some(waiting) => Some(waiting.needs),
            None => None,
        }
    }

    /// A read has ended so; `has` tells which rows it brought.
    pub(super) fn note(&mut self, reading: Reading, end: End, has: impl Fn(RowId) -> bool) {
        let waiting = self.of(reading);
        if let End::BeforeLarge(needs) = end {
            *waiting = Some(Waiting {
                needs,
                other_reads: 0,
            });
            return;
        }
        if let Some(Waiting { needs, other_reads }) = waiting {
            *other_reads += 1;
            if has(needs.row) || *other_reads > MOST_OTHER_READS {
                *waiting = None;
            }
        }
    }

    /// The rows of a read take so much.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        if let Some(reserved) = &mut self.reserved {
            reserved.shrink_to(bytes);
        }
    }
}

impl OutboxReader {
    /// Room for a read: its bytes are what it may bring at most.
    pub(super) fn room(&mut self, reading: Reading, now: Moment) -> Room {
        if self.stopped.is_some() {
            return Room { rows: 0, bytes: 0 };
        }
        let (by_rates, tag) = (self.rows_by_rates(now), &self.tag);
        let (rows, bytes) = match self.reading_room.needs(reading) {
            Some(needs) if Reservation::has_room_for(tag, needs.bytes) => (1, needs.bytes),
            Some(_) => (0, 0),
            None => {
                let bytes = Reservation::most(tag);
                (bytes / self.weight.max(1), bytes)
            }
        };
        let rows = if bytes == 0 { 0 } else { rows.max(1) };
        Room {
            rows: rows.min(tag.own.free_rows()).min(by_rates),
            bytes,
        }
    }

    /// Reserves what a read may bring; answers how much that is. `rows` is how many are
    /// asked for.
    pub(super) fn reserve(&mut self, reading: Reading, rows: usize) -> Option<usize> {
        let bytes = self.reserve_bytes(reading, rows)?;
        let weighing = rows.saturating_mul(self.weight);
        self.quota.reserve(rows, weighing, self.now());
        Some(bytes)
    }

    fn reserve_bytes(&mut self, reading: Reading, rows: usize) -> Option<usize> {
        let tag = &self.tag;
        if let Some(needs) = self.reading_room.needs(reading) {
            self.reading_room.reserved = Reservation::for_one(tag, needs.bytes);
            return self.reading_room.reserved.is_some().then_some(needs.bytes);
        }
        // Rows of the learnt weight, and as much again for heavier ones.
        let likely = rows.saturating_mul(self.weight).saturating_mul(2);
        let bytes = Reservation::most(tag).min(likely.max(LEAST_RESERVED));
        self.reading_room.reserved = Some(Reservation::for_read(tag, bytes));
        Some(bytes)
    }

    /// Room for rows that have been read, now that nothing is reserved for them any
    /// more.
    pub(super) fn room_for(&self, rows: usize) -> Room {
        if self.tag.is_recalled() {
            // They are remembered by id.
            return Room { rows: 0, bytes: 0 };
        }
        let tag = &self.tag;
        let is_alone = self.pass.is_some();
        let free = tag.own.free_bytes().min(tag.shared.free_bytes());
        Room {
            rows: tag.own.free_rows().min(rows),
            bytes: if is_alone { usize::MAX } else { free },
        }
    }

    /// What is reserved becomes free for the rows that were read, which are handed in
    /// the same turn.
    pub(super) fn end_reservation(&mut self) {
        self.quota.release();
        self.pass = self.reading_room.reserved.take().and_then(Reservation::end);
    }

    /// Rows weigh what those of the last reads weighed; quickly more, slowly less.
    pub(super) fn learn_weight(&mut self, items: &[Item]) {
        let memory = |item: &Item| match item {
            Item::Ready(ready) => Some(ready.envelope.memory()),
            Item::Poison(..) | Item::Lettered(_) => None,
        };
        let known = items.iter().filter_map(memory);
        let (count, sum) = known.fold((0_usize, 0_usize), |(count, sum), memory| {
            (count + 1, sum.saturating_add(memory))
        });
        if let Some(mean) = sum.checked_div(count) {
            let slowly = (self.weight * 3 + mean) / 4;
            self.weight = mean.max(slowly).max(ROW_OVERHEAD);
        }
    }
}

/// At least so much is reserved where it is free, in bytes: a few small rows tell
/// little of what follows.
const LEAST_RESERVED: usize = 256 * 1024;
