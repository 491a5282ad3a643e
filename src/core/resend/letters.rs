//! Dead letters that are sent again because a person asked for it.
//!
//! They go in rounds. A round takes the first letters of each key and hands what the
//! lanes take under one fresh window number. What became of letters is written down
//! before the next round is read. Rules:
//! - a key with letters on their way is passed over, and a lane has at most
//!   [`MOST_OF_A_LANE`] on their way: letters of a shard that is stuck hold up neither
//!   those of the others nor memory;
//! - a key's letters go in their order, through the writer's queue of the key; in a
//!   round their ids rise, so that their `seq` does and a consumer that drops
//!   `seq <= last seen` drops none;
//! - a key that letters block (`on_poison = block_key`) is free when its last open
//!   letter is handed: rows read from then on follow in the queue. Waiting for its
//!   confirmation would never free a key that gets rows all the time. Should the
//!   service refuse the letter, the writer gives back what is behind it;
//! - when rows may be handed at all is the same as for replays (see
//!   [`super::Resend`]);
//! - a letter that cannot be sent still is parked again; under `block_key` those of
//!   its key wait behind it again;
//! - a restart forgets the round: letters not known to be delivered are sent again.

use std::collections::{BTreeMap, HashSet};

use super::SAVE_EVERY;
use super::retry::{FIRST_PAUSE, Retry};
use crate::core::dead_letter::LetterReason;
use crate::core::page::Cut;
use crate::core::position::{RowId, Seq};
use crate::core::row::OutboxRow;
use crate::core::sabotage::{self, Bug};
use crate::core::time::Moment;

/// The most letters of one round.
pub const LETTER_PAGE: usize = 100;

/// The most letters of one lane on their way.
pub const MOST_OF_A_LANE: usize = 50;

/// A letter that is to be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterAgain {
    /// Its row, as the letter keeps it.
    pub row: OutboxRow,
    /// The partition key it was parked with, if it had one.
    pub key: Option<String>,
    /// Whether it blocks its key and no open letter of the key comes after it.
    pub frees_key: bool,
}

/// Letters that were read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LettersRead {
    /// The letters.
    pub letters: Vec<LetterAgain>,
    /// Why there are no more, if bytes are the reason.
    pub cut: Option<Cut>,
}

/// All that was asked for.
impl From<Vec<LetterAgain>> for LettersRead {
    fn from(letters: Vec<LetterAgain>) -> Self {
        Self { letters, cut: None }
    }
}

/// Which letters are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LetterPage<'a> {
    /// Of keys behind this one; `None` begins with the first.
    pub after: Option<&'a str>,
    /// At most so many.
    pub letters: u32,
    /// No more than so many bytes, by [`OutboxRow::memory`].
    pub bytes: usize,
}

/// What became of a letter that was sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterOutcome {
    /// Its row.
    pub row: RowId,
    /// Why it cannot be sent still; `None`: it is in the stream.
    pub refused: Option<(LetterReason, String)>,
}

/// What is to be done for letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LetterWish {
    /// Read the first letters of the keys behind this one, at most so many.
    Read {
        /// The key; `None` begins with the first.
        after: Option<String>,
        /// At most so many.
        limit: usize,
    },
    /// Write down what became of letters.
    Save(Vec<LetterOutcome>),
    /// Nothing before this moment, unless something changes.
    Wait {
        /// When to ask again.
        until: Option<Moment>,
    },
}

/// The letters of one reader that are sent again.
#[derive(Debug, Default)]
pub struct LetterResend {
    look: bool,
    after: Option<String>,
    /// Letters on their way, with their hash keys.
    handed: BTreeMap<Seq, u128>,
    /// Hash keys that were freed when their last letter was handed.
    freed: HashSet<u128>,
    outcomes: Vec<LetterOutcome>,
    save_at: Option<Moment>,
    retry: Retry,
}

impl LetterResend {
    /// There may be letters to send.
    pub const fn notice(&mut self) {
        self.look = true;
    }

    /// Letters on their way.
    #[must_use]
    pub fn handed(&self) -> usize {
        self.handed.len()
    }

    /// Whether something is known that is not written down.
    #[must_use]
    pub const fn has_outcomes(&self) -> bool {
        !self.outcomes.is_empty()
    }

    /// What is known and not written down.
    #[must_use]
    pub fn outcomes(&self) -> Vec<LetterOutcome> {
        self.outcomes.clone()
    }

    /// What to do next. `may_hand` is whether the live flow lets rows be handed
    /// now, `room` how many permits are free.
    pub fn next_wish(&mut self, may_hand: bool, room: usize, now: Moment) -> LetterWish {
        if self.has_outcomes() {
            let is_due = self.save_at.is_none_or(|at| at <= now);
            if self.handed.is_empty() || is_due {
                return LetterWish::Save(self.outcomes());
            }
            let until = self.save_at;
            return LetterWish::Wait { until };
        }
        if !self.look {
            return LetterWish::Wait { until: None };
        }
        let waits = self.retry.waits(now);
        if may_hand && room > 0 && waits.is_none() {
            return LetterWish::Read {
                after: self.after.clone(),
                limit: LETTER_PAGE.min(room),
            };
        }
        let until = Some(waits.unwrap_or(now + FIRST_PAUSE));
        LetterWish::Wait { until }
    }

    // === How it went ===

    /// Whether there were letters behind the key that was asked for; if there may be
    /// more, the last key among them. Answers whether there are any to hand.
    pub fn found(&mut self, any: bool, go_on_behind: Option<String>) -> bool {
        if !any && self.after.is_none() {
            self.look = false;
        }
        self.after = go_on_behind;
        any
    }

    /// `handed` letters of what was read go on.
    pub fn passed(&mut self, handed: usize, now: Moment) {
        self.retry.passed(handed, now);
    }

    /// Whether this letter is on its way already, or what became of it is not written
    /// down yet: the table still has it as one to be sent.
    #[must_use]
    pub fn is_known(&self, row: RowId) -> bool {
        self.handed.keys().any(|seq| seq.id == row)
            || (self.outcomes.iter().any(|one| one.row == row)
                && !sabotage::is(Bug::ConfirmedLetterAgain))
    }

    /// The hash keys of the letters on their way, with repeats.
    pub fn hashes(&self) -> impl Iterator<Item = u128> + '_ {
        self.handed.values().copied()
    }

    /// A letter goes to the writer under this seq, which was written down.
    pub fn hand(&mut self, seq: Seq, hash: u128) {
        self.handed.insert(seq, hash);
    }

    /// The last letters of these hash keys were handed: the keys are free although
    /// the table does not know it yet.
    pub fn free(&mut self, hashes: impl IntoIterator<Item = u128>) {
        self.freed.extend(hashes);
    }

    /// A row of this hash key was parked since: the table is right about it.
    pub fn block_again(&mut self, hash: u128) {
        self.freed.remove(&hash);
    }

    /// Whether a hash key is free although the table does not know it yet.
    #[must_use]
    pub fn has_freed(&self, hash: u128) -> bool {
        self.freed.contains(&hash)
    }

    /// A letter is in the stream; answers whether it was one of these.
    pub fn settled(&mut self, seq: Seq, now: Moment) -> bool {
        let is_known = self.handed.remove(&seq).is_some();
        if is_known {
            let row = seq.id;
            self.note(LetterOutcome { row, refused: None }, now);
        }
        is_known
    }

    /// The service does not take a letter; answers whether it was one of these.
    pub fn rejected(&mut self, seq: Seq, reason: String, now: Moment) -> bool {
        let hash = self.handed.remove(&seq);
        if let Some(hash) = hash {
            self.freed.remove(&hash);
            let (row, refused) = (seq.id, Some((LetterReason::RecordRejected, reason)));
            self.note(LetterOutcome { row, refused }, now);
        }
        hash.is_some()
    }

    /// A letter that was handed was not sent: it stays as it is.
    pub fn came_back(&mut self, seq: Seq) {
        if let Some(hash) = self.handed.remove(&seq) {
            self.freed.remove(&hash);
        }
    }

    /// A letter still cannot become a record.
    pub fn is_poison(&mut self, row: RowId, reason: LetterReason, message: String, now: Moment) {
        let refused = Some((reason, message));
        self.note(LetterOutcome { row, refused }, now);
    }

    /// These outcomes were written down.
    pub fn saved(&mut self, written: usize) {
        self.outcomes.drain(..written.min(self.outcomes.len()));
        self.save_at = None;
        self.look = true;
        self.retry = Retry::default();
        // The table knows of those that are not on their way any more. While outcomes
        // came in during the write, it may not yet.
        if self.outcomes.is_empty() {
            let handed = &self.handed;
            self.freed
                .retain(|hash| handed.values().any(|one| one == hash));
        }
    }

    fn note(&mut self, outcome: LetterOutcome, now: Moment) {
        self.save_at.get_or_insert(now + SAVE_EVERY);
        self.outcomes.push(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::position::WindowNumber;
    use std::time::Duration;

    fn at(millis: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(millis))
    }

    fn seq(window: u64, id: RowId) -> Seq {
        Seq {
            window: WindowNumber(window),
            id,
        }
    }

    fn read(after: Option<&str>, limit: usize) -> LetterWish {
        let after = after.map(str::to_owned);
        LetterWish::Read { after, limit }
    }

    #[test]
    fn a_round_is_written_down_before_the_next_begins() {
        let mut letters = LetterResend::default();
        assert_eq!(
            letters.next_wish(true, 10, at(0)),
            LetterWish::Wait { until: None },
            "nobody asked for anything"
        );
        letters.notice();
        assert_eq!(letters.next_wish(true, 10, at(0)), read(None, 10));
        assert!(letters.found(true, None));
        letters.passed(2, at(0));
        letters.hand(seq(7, 1), 1);
        letters.hand(seq(7, 4), 4);
        assert!(letters.is_known(4) && !letters.is_known(5));
        assert_eq!(letters.hashes().collect::<Vec<_>>(), [1, 4]);
        assert!(letters.settled(seq(7, 4), at(2)));
        assert!(!letters.settled(seq(7, 4), at(2)), "once");
        assert!(
            letters.is_known(4),
            "the table may be read before it is written"
        );
        assert!(letters.rejected(seq(7, 1), "no".to_owned(), at(3)));
        let LetterWish::Save(outcomes) = letters.next_wish(false, 0, at(3)) else {
            panic!("what is known is to be written");
        };
        assert_eq!(outcomes.len(), 2);
        assert_eq!((outcomes[0].row, &outcomes[0].refused), (4, &None));
        assert!(outcomes[1].refused.is_some());
        // Not known to be written: it is wished for again.
        assert!(matches!(
            letters.next_wish(false, 0, at(4)),
            LetterWish::Save(_)
        ));
        letters.saved(outcomes.len());
        assert!(!letters.is_known(4));
        assert_eq!(letters.next_wish(true, 10, at(5)), read(None, 10));
        assert!(!letters.found(false, None));
        assert_eq!(
            letters.next_wish(true, 10, at(5)),
            LetterWish::Wait { until: None },
            "nothing is left"
        );
    }

    #[test]
    fn what_is_known_is_not_held_back_by_a_letter_that_is_stuck() {
        let mut letters = LetterResend::default();
        letters.notice();
        letters.hand(seq(7, 1), 1);
        letters.hand(seq(7, 2), 2);
        letters.free([1, 2]);
        assert!(letters.settled(seq(7, 1), at(0)));
        let until = Some(at(200));
        assert_eq!(
            letters.next_wish(true, 10, at(1)),
            LetterWish::Wait { until }
        );
        assert!(matches!(
            letters.next_wish(true, 10, at(200)),
            LetterWish::Save(_)
        ));
        letters.saved(1);
        assert_eq!(letters.handed(), 1);
        assert!(!letters.has_freed(1), "the table knows of it");
        assert!(letters.has_freed(2));
        letters.block_again(2);
        assert!(!letters.has_freed(2), "a row of it was parked since");
        assert_eq!(
            letters.next_wish(true, 10, at(200)),
            read(None, 10),
            "others go on beside the one that is stuck"
        );
    }

    #[test]
    fn keys_whose_shard_is_stuck_do_not_hide_the_others() {
        let mut letters = LetterResend::default();
        letters.notice();
        assert!(letters.found(true, Some("b".to_owned())));
        letters.passed(0, at(0));
        assert!(matches!(
            letters.next_wish(true, 2, at(1)),
            LetterWish::Wait { until: Some(_) }
        ));
        assert_eq!(letters.next_wish(true, 2, at(50)), read(Some("b"), 2));
        assert!(letters.found(true, None));
        letters.passed(0, at(50));
        assert_eq!(letters.next_wish(true, 2, at(150)), read(None, 2));
    }
}
