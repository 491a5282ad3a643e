//! Rows that are sent again beside the live flow: which, how far, what is done.
//!
//! A replay request names a range of row ids. Its rows are read a page at a time
//! and travel like live rows (router, writer, permits), each under the number of
//! a window that was opened for them, so a consumer that drops
//! `seq <= last seen of that key` takes them as new. What becomes of them settles
//! the request, never the live position.
//!
//! Order. A consumer must not lose a live row because a row sent again, with a
//! higher number, was stored first. So rows are handed under a fresh number only
//! - when all windows opened before have been read to their end, and
//! - into a lane whose stash is empty:
//!
//! then every live row of a lower number and the same lane has been handed
//! before, and the writer's queue of the key keeps them in that order. Live rows
//! handed later have higher numbers. What the reader has not read is not sent
//! again either: it will be delivered live.
//!
//! Restart. `next` is written down: every row below it is confirmed or skipped.
//! What lies above may be sent once more, under yet another number.

mod letters;
mod port;
mod retry;

use std::collections::BTreeMap;
use std::time::Duration;

use super::position::{RowId, Seq};
use super::time::Moment;

use retry::{FIRST_PAUSE, Retry};

pub use letters::{
    LETTER_PAGE, LetterAgain, LetterOutcome, LetterPage, LetterResend, LetterWish, LettersRead,
    MOST_OF_A_LANE,
};
pub use port::{AgainRequest, ReplayProgress, ReplayRequest, ReplayWrite, ResendStore};

/// The most rows of a request that are known of at once.
pub const RESEND_PAGE: usize = 1000;

/// How long progress may stay unwritten: what a crash sends once more.
const SAVE_EVERY: Duration = Duration::from_millis(200);

/// What is to be done for the rows that are sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResendWish {
    /// Look whether a request waits in the database.
    Look,
    /// Read rows of the range.
    Read {
        /// Ids above this.
        after: RowId,
        /// Ids up to this.
        to: RowId,
        /// At most so many.
        limit: usize,
    },
    /// Write the progress down.
    Save(ReplayProgress),
    /// Nothing before this moment, unless something changes.
    Wait {
        /// When to ask again.
        until: Option<Moment>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It was read, but its lane took nothing.
    Seen,
    /// It is on its way.
    Handed,
    /// It is confirmed or skipped; one below it is not.
    Settled,
}

#[derive(Debug)]
struct Replay {
    request: ReplayRequest,
    /// Rows at or above `request.next` that are known of.
    rows: BTreeMap<RowId, Phase>,
    /// Up to here `rows` knows all of them.
    looked_to: RowId,
}

/// The rows of one reader that are sent again.
#[derive(Debug)]
pub struct Resend {
    /// Rows handed and not settled, at most: a part of the pipeline's permits, so
    /// that the live flow keeps the others.
    most: usize,
    look: bool,
    replay: Option<Replay>,
    /// Rows on their way, and the request that they are of: a row of a request that
    /// was cancelled may be confirmed while the next one covers it too.
    handed: BTreeMap<Seq, i64>,
    dirty: bool,
    saved_at: Moment,
    retry: Retry,
}

// === impl Resend ===

impl Resend {
    /// Nothing known of yet; at most `most` rows on their way.
    #[must_use]
    pub const fn new(most: usize, now: Moment) -> Self {
        Self {
            most,
            look: true,
            replay: None,
            handed: BTreeMap::new(),
            dirty: false,
            saved_at: now,
            retry: Retry::new(),
        }
    }

    /// At most so many rows on their way from now on.
    pub const fn limit(&mut self, most: usize) {
        self.most = most;
    }

    /// There may be a request in the database.
    pub const fn notice(&mut self) {
        self.look = true;
    }

    /// The request that is carried out.
    #[must_use]
    pub fn request(&self) -> Option<&ReplayRequest> {
        self.replay.as_ref().map(|replay| &replay.request)
    }

    /// Rows on their way.
    #[must_use]
    pub fn handed(&self) -> usize {
        self.handed.len()
    }

    /// How many more rows may be on their way.
    #[must_use]
    pub fn free(&self) -> usize {
        self.most.saturating_sub(self.handed.len())
    }

    /// What to do next. `may_hand` is whether the live flow lets rows be handed
    /// now, `room` how many permits are free.
    pub fn next_wish(&mut self, may_hand: bool, room: usize, now: Moment) -> ResendWish {
        let Some(replay) = &self.replay else {
            if self.look {
                return ResendWish::Look;
            }
            return ResendWish::Wait { until: None };
        };
        let save_at = self.saved_at + SAVE_EVERY;
        if replay.is_done() || (self.dirty && now >= save_at) {
            return ResendWish::Save(replay.progress());
        }
        let waits = self.retry.waits(now);
        let limit = self.free().min(room);
        if may_hand
            && waits.is_none()
            && limit > 0
            && let Some(after) = replay.read_after()
        {
            let limit = limit.min(RESEND_PAGE);
            let to = replay.request.to;
            return ResendWish::Read { after, to, limit };
        }
        let save_at = self.dirty.then_some(save_at);
        let retry_at = waits.or_else(|| {
            let wants_more = replay.read_after().is_some() && self.free() > 0;
            wants_more.then(|| now + FIRST_PAUSE)
        });
        let until = save_at.into_iter().chain(retry_at).min();
        ResendWish::Wait { until }
    }

    // === How it went ===

    /// The oldest request that is not finished, if there is one.
    pub fn looked(&mut self, found: Option<ReplayRequest>) {
        self.look = false;
        self.retry = Retry::new();
        self.replay = found.map(|request| Replay {
            looked_to: request.next.saturating_sub(1),
            request,
            rows: BTreeMap::new(),
        });
    }

    /// These rows were read above `after`; `is_last` when there are none above
    /// them. Answers which of them are to be handed, as far as they can be.
    pub fn rows_read(&mut self, after: RowId, ids: &[RowId], is_last: bool) {
        let Some(replay) = &mut self.replay else {
            return;
        };
        let end = match ids.last() {
            Some(last) if !is_last => *last,
            Some(_) | None => replay.request.to,
        };
        // A row that was seen and is not there any more was deleted meanwhile.
        replay.rows.retain(|id, phase| {
            let is_gone = *id > after && *id <= end && !ids.contains(id);
            *phase != Phase::Seen || !is_gone
        });
        for id in ids {
            replay.rows.entry(*id).or_insert(Phase::Seen);
        }
        replay.looked_to = replay.looked_to.max(end);
        self.dirty = true;
        replay.advance();
    }

    /// Whether a row that was read is yet to be handed.
    #[must_use]
    pub fn is_wanted(&self, id: RowId) -> bool {
        self.replay
            .as_ref()
            .is_some_and(|replay| replay.rows.get(&id) == Some(&Phase::Seen))
    }

    /// A row goes to the writer under this seq, which was written down.
    pub fn hand(&mut self, seq: Seq) {
        if let Some(replay) = &mut self.replay {
            replay.rows.insert(seq.id, Phase::Handed);
            self.handed.insert(seq, replay.request.id);
        }
    }

    /// A pass over what was read is over: `handed` rows of it went on.
    pub fn passed(&mut self, handed: usize, now: Moment) {
        self.retry.passed(handed, now);
    }

    /// A row cannot be sent: it is left out.
    pub fn skip(&mut self, id: RowId) {
        if let Some(replay) = &mut self.replay {
            replay.rows.insert(id, Phase::Settled);
            replay.request.skipped += 1;
            replay.advance();
            self.dirty = true;
        }
    }

    /// A row is confirmed; answers whether it was one of these.
    pub fn settled(&mut self, seq: Seq) -> bool {
        self.take_handed(seq, |replay| replay.request.sent += 1)
    }

    /// The service does not take a row; answers whether it was one of these.
    pub fn rejected(&mut self, seq: Seq) -> bool {
        self.take_handed(seq, |replay| replay.request.skipped += 1)
    }

    /// A row was not sent since another one of its key is refused: it is looked at
    /// again.
    pub fn came_back(&mut self, seq: Seq) {
        if let Some(request) = self.handed.remove(&seq)
            && let Some(replay) = &mut self.replay
            && replay.request.id == request
            && let Some(phase) = replay.rows.get_mut(&seq.id)
        {
            *phase = Phase::Seen;
        }
    }

    fn take_handed(&mut self, seq: Seq, count: impl FnOnce(&mut Replay)) -> bool {
        let Some(request) = self.handed.remove(&seq) else {
            return false;
        };
        if let Some(replay) = &mut self.replay
            && replay.request.id == request
            && replay.rows.contains_key(&seq.id)
        {
            replay.rows.insert(seq.id, Phase::Settled);
            count(replay);
            replay.advance();
            self.dirty = true;
        }
        true
    }

    /// The progress to write before the reader ends, if there is any.
    #[must_use]
    pub fn last_progress(&self) -> Option<ReplayProgress> {
        self.replay
            .as_ref()
            .filter(|_| self.dirty)
            .map(Replay::progress)
    }

    /// The progress was written down, or the request is not wanted any more: then
    /// the next one is looked for.
    pub fn saved(&mut self, progress: &ReplayProgress, wanted: bool, now: Moment) {
        self.saved_at = now;
        self.dirty = false;
        let Some(replay) = &mut self.replay else {
            return;
        };
        if progress.done || !wanted {
            self.replay = None;
            self.look = true;
            return;
        }
        self.dirty = replay.progress() != *progress;
    }
}

// === impl Replay ===

impl Replay {
    /// The next row wanted lies above this id; `None` when all are known of and
    /// none waits, or enough are.
    fn read_after(&self) -> Option<RowId> {
        let seen = self.rows.iter().find(|(_, phase)| **phase == Phase::Seen);
        match seen {
            Some((id, _)) => Some(id - 1),
            None if self.looked_to < self.request.to && self.rows.len() < RESEND_PAGE => {
                Some(self.looked_to)
            }
            None => None,
        }
    }

    fn advance(&mut self) {
        while let Some(first) = self.rows.first_entry() {
            if *first.get() != Phase::Settled {
                break;
            }
            first.remove();
        }
        let first = self.rows.keys().next().copied();
        self.request.next = first.unwrap_or_else(|| self.looked_to.saturating_add(1));
    }

    fn is_done(&self) -> bool {
        self.rows.is_empty() && self.looked_to >= self.request.to
    }

    fn progress(&self) -> ReplayProgress {
        ReplayProgress {
            request: self.request.id,
            next: self.request.next,
            sent: self.request.sent,
            skipped: self.request.skipped,
            done: self.is_done(),
        }
    }
}

#[cfg(test)]
mod tests;
