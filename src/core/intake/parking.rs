//! Rows that become letters instead of records.
//!
//! A letter counts as unsettled until it is written, so the position cannot step
//! over its row. A save takes letters along from the lowest on; what it took goes
//! in every save until one is known to have been written.

use std::collections::{BTreeMap, HashSet};

use super::{Intake, Ready, StashOf};
use crate::core::dead_letter::{DeadLetter, LetterReason, LetterState, OnPoison};
use crate::core::lane::Lane;
use crate::core::position::{Position, Seq};
use crate::core::row::Envelope;
use crate::core::sabotage::{self, Bug};
use crate::core::shard_map::hash_key;
use crate::core::time::Moment;

/// The most letters of one write, and when they are due without waiting.
pub const MOST_LETTERS: usize = 1000;

/// The most payload bytes copied in one write (one letter may exceed them): a
/// write must end well within the time a call may take.
const MOST_LETTER_BYTES: usize = 16 * 1024 * 1024;

/// The letters and blocked keys of one pipeline.
#[derive(Debug, Default)]
pub(super) struct Parking {
    policy: OnPoison,
    to_write: BTreeMap<Seq, DeadLetter>,
    in_write: Vec<DeadLetter>,
    blocked: HashSet<u128>,
}

impl Parking {
    pub(super) fn new(policy: OnPoison) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }

    /// The first letter that the next position must not step over.
    pub(super) fn first(&self) -> Option<Seq> {
        self.to_write.keys().next().copied()
    }

    pub(super) fn is_due(&self) -> bool {
        self.to_write.len() >= MOST_LETTERS
    }

    pub(super) fn len(&self) -> usize {
        self.to_write.len() + self.in_write.len()
    }

    /// All rows whose letters are not known to be written.
    pub(super) fn rows(&self) -> impl Iterator<Item = Seq> + '_ {
        let in_write = self.in_write.iter().map(|letter| letter.seq);
        self.to_write.keys().copied().chain(in_write)
    }

    fn is_blocked(&self, hash: u128) -> bool {
        !self.blocked.is_empty() && self.blocked.contains(&hash)
    }

    fn add(&mut self, letter: DeadLetter) {
        self.to_write.insert(letter.seq, letter);
    }

    fn take_along(&mut self) {
        let mut bytes: usize = self.in_write.iter().map(|letter| letter.weight).sum();
        while self.in_write.len() < MOST_LETTERS
            && (self.in_write.is_empty() || bytes < MOST_LETTER_BYTES)
            && let Some((_, letter)) = self.to_write.pop_first()
        {
            bytes += letter.weight;
            self.in_write.push(letter);
        }
    }
}

impl Intake {
    // === What is known of earlier letters ===

    /// What becomes of rows that cannot be sent.
    #[must_use]
    pub const fn policy(&self) -> OnPoison {
        self.parking.policy
    }

    /// These keys are blocked in the table, and no others: apart from those
    /// whose letters are still to be written and those in `kept`.
    pub fn know_blocked(&mut self, keys: &[String], kept: impl IntoIterator<Item = u128>) {
        if self.parking.policy != OnPoison::BlockKey {
            return;
        }
        let mut blocked: HashSet<u128> = keys.iter().map(|key| hash_key(key)).collect();
        let unwritten = self.parking.to_write.values().chain(&self.parking.in_write);
        let unwritten = unwritten.filter_map(|letter| letter.key.as_deref());
        blocked.extend(unwritten.map(hash_key));
        blocked.extend(kept);
        self.parking.blocked = blocked;
    }

    /// A row of this key that was sent again was refused: later ones wait.
    pub fn block(&mut self, hash: u128) {
        self.parking.blocked.insert(hash);
    }

    /// Every row of this key that was to be sent again has been handed to the
    /// writer: later ones may follow.
    pub fn unblock(&mut self, hash: u128) {
        self.parking.blocked.remove(&hash);
    }

    /// How many keys are blocked.
    #[must_use]
    pub fn blocked_keys(&self) -> usize {
        self.parking.blocked.len()
    }

    // === Rows that are parked ===

    /// A row that was read cannot be sent. Answers whether it is parked; it is
    /// not when an earlier incarnation has settled it.
    pub fn park_read(&mut self, letter: DeadLetter) -> bool {
        let seq = letter.seq;
        if !self.read_on_to(seq) {
            return false;
        }
        let settled = match &letter.key {
            Some(key) => self.recorded.has_settled(seq, hash_key(key)),
            None => {
                self.recorded.has_settled_all_before(seq) || self.recorded.has_settled_ahead(seq)
            }
        };
        if settled {
            return false;
        }
        self.books.read += 1;
        if self.parking.policy == OnPoison::BlockKey
            && let Some(hash) = letter.key.as_deref().map(hash_key)
        {
            // Rows of its key may be stashed before it: it is read again behind
            // them.
            if let Some(backlog) = self
                .last_backlog_of(hash)
                .and_then(|place| self.backlogs.get_mut(place))
            {
                backlog.rows.push(seq);
                return true;
            }
            let place = self.lane_of(hash);
            let lane = self.lanes.get_mut(place);
            if let Some(lane) = lane.filter(|lane| !lane.stash().is_empty()) {
                lane.stash_row(seq);
                return true;
            }
        }
        self.park(letter);
        true
    }

    /// A row that was read has a letter already: it is settled.
    pub fn skip(&mut self, row: Seq) {
        if self.read_on_to(row) {
            self.dirty = true;
        }
    }

    /// A stashed row that was read again cannot be sent.
    pub fn park_stashed(&mut self, from: StashOf, letter: DeadLetter) {
        if self.take_out(from, letter.seq) {
            self.park(letter);
        }
    }

    /// A handed row came back from the writer: refused by the service, or behind
    /// such a one. Answers whether this incarnation had handed it.
    pub fn park_handed(&mut self, hash: u128, letter: DeadLetter, now: Moment) -> bool {
        let place = self.lane_of(hash);
        let handed = self.lanes.get_mut(place);
        if handed
            .and_then(|lane| lane.settle(letter.seq, now))
            .is_none()
        {
            return false;
        }
        self.park(letter);
        true
    }

    /// Whether rows of this hash key's lane up to `last` are still with the
    /// writer.
    #[must_use]
    pub fn waits_for(&self, hash: u128, last: Seq) -> bool {
        let lane = self.lanes.get(self.lane_of(hash));
        lane.and_then(Lane::first_handed)
            .is_some_and(|first| first <= last)
    }

    /// The last row handed to the lane of this hash key that is not settled in
    /// order.
    #[must_use]
    pub fn last_handed(&self, hash: u128) -> Option<Seq> {
        let lane = self.lanes.get(self.lane_of(hash));
        lane.and_then(Lane::last_handed).copied()
    }

    pub(super) fn is_behind_poison(&self, hash: u128) -> bool {
        self.parking.is_blocked(hash)
    }

    /// Parks a row whose key is blocked.
    pub(super) fn park_behind(&mut self, ready: &Ready) {
        self.park(behind(&ready.envelope));
    }

    fn park(&mut self, letter: DeadLetter) {
        if letter.blocks_key
            && let Some(key) = &letter.key
        {
            self.parking.blocked.insert(hash_key(key));
        }
        self.parking.add(letter);
        self.dirty = true;
    }

    // === Writing them ===

    /// The position to write down now, and the letters to write with it.
    pub fn to_save(&mut self, now: Moment) -> (Position, Vec<DeadLetter>) {
        self.take_to_write(now, false)
    }

    /// The last position this reader writes down, and the letters to write with it.
    pub fn to_save_last(&mut self, now: Moment) -> (Position, Vec<DeadLetter>) {
        self.take_to_write(now, true)
    }

    fn take_to_write(&mut self, now: Moment, is_last: bool) -> (Position, Vec<DeadLetter>) {
        self.parking.take_along();
        let position = self.position_to_write(now, is_last);
        self.dirty = !self.parking.to_write.is_empty();
        if sabotage::is(Bug::PositionWithoutLetter) {
            return (position, Vec::new());
        }
        (position, self.parking.in_write.clone())
    }

    /// The save is known to be done: answers the letters that were written.
    pub fn letters_written(&mut self) -> Vec<DeadLetter> {
        let written = std::mem::take(&mut self.parking.in_write);
        self.books.parked += written.len() as u64;
        written
    }

    /// Letters not known to be written.
    #[must_use]
    pub fn letters(&self) -> usize {
        self.parking.len()
    }

    /// The key of a poison row is blocked already: an earlier row of it is.
    #[must_use]
    pub fn state_for(&self, hash: Option<u128>) -> LetterState {
        match hash {
            Some(hash) if self.parking.is_blocked(hash) => LetterState::Waiting,
            Some(_) | None => LetterState::Parked,
        }
    }
}

/// The letter of a row behind a blocked key.
#[must_use]
pub fn behind(envelope: &Envelope) -> DeadLetter {
    DeadLetter {
        seq: envelope.seq,
        key: Some(std::sync::Arc::clone(&envelope.key)),
        reason: LetterReason::KeyBlocked,
        message: "an earlier row of its key is parked".to_owned(),
        state: LetterState::Waiting,
        blocks_key: true,
        weight: envelope.weight(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{ready, shard_ranges};
    use super::super::{IntakeLimits, Room, Wish};
    use super::*;
    use crate::core::position::WindowNumber;
    use crate::core::snapshot::Snapshot;

    const ROOM: Room = Room {
        rows: 100,
        bytes: 1 << 20,
    };

    const LIMITS: IntakeLimits = IntakeLimits {
        rows: 100,
        stashed: 100,
        merge_above: 64,
    };

    const LATER: Moment = Moment::from_origin(Duration::from_secs(9));

    fn intake(policy: OnPoison) -> (Intake, WindowNumber) {
        let ranges = shard_ranges();
        let position = Position::start();
        let intake = Intake::new(position, "", &ranges, LIMITS, Moment::ORIGIN);
        let mut intake = intake.with_policy(policy);
        let window = intake.open_window(Snapshot::nothing(), Moment::ORIGIN);
        intake.to_save(Moment::ORIGIN);
        intake.saved(Moment::ORIGIN);
        (intake, window)
    }

    fn letter(seq: Seq, key: Option<&str>, weight: usize) -> DeadLetter {
        DeadLetter {
            seq,
            key: key.map(Into::into),
            reason: LetterReason::RecordTooLarge,
            message: String::new(),
            state: LetterState::Parked,
            blocks_key: key.is_some(),
            weight,
        }
    }

    /// Its definition made a record of it then, and does not now.
    #[test]
    fn a_row_without_key_that_was_sent_out_of_turn_gets_no_letter() {
        let (mut before, window) = intake(OnPoison::Park);
        let mut recorded = before.position_to_save(LATER);
        let row = |id| Seq { window, id };
        recorded.ahead = vec![row(2)];
        let whole = [crate::core::shard_map::HashRange::ALL];
        let limits = before.limits;
        let mut next = Intake::new(recorded, "k", &whole, limits, LATER);
        assert!(!next.park_read(letter(row(2), None, 1)), "it was sent");
        assert!(next.park_read(letter(row(3), None, 1)));
    }

    #[test]
    fn the_position_steps_over_a_row_only_with_its_letter() {
        let (mut intake, window) = intake(OnPoison::Park);
        let seq = Seq { window, id: 1 };
        assert!(intake.park_read(letter(seq, None, 1)));
        assert!(!intake.park_read(letter(seq, None, 1)), "read twice");
        intake.end_window(window);
        assert!(!intake.is_idle());
        let without = intake.position_to_save(LATER);
        assert_eq!(without.open.len(), 1, "no letter goes with it");
        let (position, letters) = intake.to_save(LATER);
        assert!(position.open.is_empty());
        assert_eq!(letters.len(), 1);
        // It is not known whether it was written: it goes again.
        intake.not_saved();
        let (_, again) = intake.to_save(LATER);
        assert_eq!(again, letters);
        intake.saved(LATER);
        assert_eq!(intake.letters_written().len(), 1);
        assert_eq!(intake.letters(), 0);
    }

    #[test]
    fn one_write_copies_a_bounded_amount_and_the_position_waits_for_the_rest() {
        let (mut intake, window) = intake(OnPoison::Park);
        let heavy = MOST_LETTER_BYTES / 2;
        for id in 1..=5 {
            assert!(intake.park_read(letter(Seq { window, id }, None, heavy)));
        }
        intake.end_window(window);
        let (position, letters) = intake.to_save(LATER);
        assert_eq!(letters.len(), 2);
        assert_eq!((position.open.len(), position.settled_id), (1, 2));
        intake.saved(Moment::ORIGIN);
        intake.letters_written();
        assert_eq!(intake.next_wish(ROOM, LATER), Wish::Save, "the rest is due");
        let (position, _) = intake.to_save(LATER);
        assert_eq!(position.settled_id, 4);
    }

    #[test]
    fn rows_behind_a_blocked_key_become_letters_and_others_flow() {
        let (mut intake, window) = intake(OnPoison::BlockKey);
        let row = |id| Seq { window, id };
        let hash = hash_key("k");
        assert!(intake.park_read(letter(row(1), Some("k"), 1)));
        let mut room = ROOM;
        assert!(intake.take_in(ready(row(2), hash), &mut room).is_none());
        assert!(intake.take_in(ready(row(3), !hash), &mut room).is_some());
        let (_, letters) = intake.to_save(LATER);
        assert_eq!(letters[0].state, LetterState::Parked);
        assert_eq!(letters[1].state, LetterState::Waiting);
        assert_eq!(letters[1].seq, row(2));
        intake.saved(LATER);
        intake.letters_written();
        intake.know_blocked(&["k".to_owned()], []);
        assert!(intake.take_in(ready(row(4), hash), &mut room).is_none());
        intake.to_save(LATER);
        intake.saved(LATER);
        intake.letters_written();
        intake.know_blocked(&[], []);
        assert!(intake.take_in(ready(row(5), hash), &mut room).is_some());
    }
}
