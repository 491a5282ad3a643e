//! What a reader does for dead letters that a person wants delivered (see
//! [`LetterResend`](crate::core::resend::LetterResend)).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use actix::Context;

use super::resend::Again;
use super::room::Reading;
use super::work::{Done, End, Work, clamp};
use super::{OutboxReader, PERMIT_RETRY};
use crate::actors::child::Exit;
use crate::actors::messages::{Purpose, RejectedRow};
use crate::core::dead_letter::{LetterReason, OnPoison};
use crate::core::page::{Cut, ReadBound};
use crate::core::ports::{Fenced, StoreError};
use crate::core::position::{RowId, Seq, WindowNumber};
use crate::core::render::Poison;
use crate::core::resend::{
    LetterAgain, LetterOutcome, LetterPage, LetterWish, LettersRead, MOST_OF_A_LANE,
};
use crate::core::row::Envelope;
use crate::core::sabotage::{self, Bug};
use crate::core::time::Moment;

impl OutboxReader {
    /// Does something for letters, if there is anything to do; answers whether it
    /// did.
    pub(super) fn resend_letters(
        &mut self,
        is_their_turn: bool,
        room: usize,
        now: Moment,
        context: &mut Context<Self>,
    ) -> bool {
        let may_hand = is_their_turn && self.intake.may_send_letters();
        match self.letters.next_wish(may_hand, room, now) {
            // What is about to be parked first: a key is freed with its last letter
            // only if the table has them all.
            LetterWish::Read { .. } if self.intake.letters() > 0 => {
                self.letters_next = true;
                self.save(context);
            }
            LetterWish::Read { after, limit } => {
                let Some(bytes) = self.reserve(Reading::Again, limit) else {
                    self.wake_at(now + PERMIT_RETRY, context);
                    return false;
                };
                let bound = ReadBound {
                    rows: clamp(limit),
                    bytes,
                };
                let window = self.last_number.next();
                let task = self.work.clone().read_letters(after, bound, window);
                self.start(task, context);
            }
            LetterWish::Save(_) => self.save_letters(context),
            LetterWish::Wait { until } => {
                if let Some(until) = until {
                    self.wake_at(until, context);
                }
                return false;
            }
        }
        true
    }

    /// What was about to be parked is written: letters are read before anything else.
    pub(super) fn read_letters_next(&mut self, now: Moment, context: &mut Context<Self>) -> bool {
        if !std::mem::take(&mut self.letters_next) || self.draining || self.intake.letters() > 0 {
            return false;
        }
        let room = self.room(Reading::Again, now);
        self.resend_letters(true, room.rows.min(room.bytes), now, context)
    }

    pub(super) fn save_letters(&mut self, context: &mut Context<Self>) {
        let task = self.work.clone().save_letters(self.letters.outcomes());
        self.start(task, context);
    }

    /// Letters were read: those that can go get a window number, which is written
    /// down first.
    pub(super) fn take_letters(
        &mut self,
        any: bool,
        go_on_behind: Option<String>,
        mut rows: Again,
    ) {
        let now = self.now();
        if !self.letters.found(any, go_on_behind) {
            return;
        }
        rows.poison
            .retain(|(seq, _)| !self.letters.is_known(seq.id));
        for (seq, poison) in rows.poison.drain(..) {
            self.say_parked(seq, poison.code(), &poison.to_string());
            let reason = LetterReason::from(&poison);
            self.letters
                .is_poison(seq.id, reason, poison.to_string(), now);
        }
        // What of a key cannot go now holds the later letters of that key.
        let mut last_of: HashMap<u128, RowId> = HashMap::new();
        let mut held: HashSet<u128> = self.letters.hashes().collect();
        let mut of_lane: HashMap<usize, usize> = HashMap::new();
        for hash in self.letters.hashes() {
            *of_lane.entry(self.intake.lane_for(hash)).or_default() += 1;
        }
        let (intake, rejected) = (&self.intake, &self.tag.rejected_keys);
        let letters = &self.letters;
        if sabotage::is(Bug::LetterOvertakes) {
            rows.ready.reverse();
        }
        rows.ready.retain(|row| {
            let rises = last_of.insert(row.hash, row.seq.id) < Some(row.seq.id)
                || sabotage::is(Bug::LetterOvertakes);
            let under_way = of_lane.entry(intake.lane_for(row.hash)).or_default();
            let goes = rises
                && !letters.is_known(row.seq.id)
                && *under_way < MOST_OF_A_LANE
                && intake.takes_resent(row.hash)
                && !rejected.contains(row.hash);
            if !goes {
                held.insert(row.hash);
            }
            let is_taken = !held.contains(&row.hash);
            *under_way += usize::from(is_taken);
            is_taken
        });
        self.letters.passed(rows.ready.len(), now);
        if !rows.ready.is_empty() && self.intake.may_send_letters() {
            self.last_number = self.intake.number_resend();
            self.reading_room.shrink_to(rows.memory);
            self.opened_again = Some(rows);
        }
    }

    /// The number of these letters is written down: they go, and the keys of which
    /// they are the last ones are free.
    pub(super) fn hand_letters(&mut self, letters: Vec<Envelope>, freeing: &HashSet<RowId>) {
        for letter in &letters {
            self.letters.hand(letter.seq, letter.hash);
        }
        if self.intake.letters() == 0 && !sabotage::is(Bug::BusyKeyStaysBlocked) {
            let freed = letters.iter().filter(|one| freeing.contains(&one.seq.id));
            for letter in freed {
                self.intake.unblock(letter.hash);
                self.letters.free([letter.hash]);
            }
        }
        self.hand(letters, Purpose::Letter);
    }

    /// The service does not take a letter still.
    pub(super) fn park_letter_again(&mut self, rejected: RejectedRow) {
        let RejectedRow { row, reason, shown } = rejected;
        let (seq, hash) = (row.envelope.seq, row.envelope.hash);
        row.ticket.settle();
        self.metrics.rows_returned(1);
        if self.work.on_poison == OnPoison::BlockKey {
            self.intake.block(hash);
            self.await_key(hash);
        }
        self.say_parked(seq, LetterReason::RecordRejected.code(), &shown);
        self.letters.rejected(seq, reason, self.now());
    }

    pub(super) fn letters_saved(
        &mut self,
        saved: usize,
        fenced: Fenced,
        context: &mut Context<Self>,
    ) {
        match fenced {
            Fenced::Stale => self.end(Exit::LeaseLost, context),
            Fenced::Written => {
                self.letters.saved(saved);
                // A key may be free now, or blocked again.
                self.letters_due = true;
            }
        }
    }
}

impl Work {
    async fn read_letters(
        self,
        after: Option<String>,
        bound: ReadBound,
        window: WindowNumber,
    ) -> Result<Option<Done>, StoreError> {
        let outbox = self.renderer.outbox.id;
        let page = LetterPage {
            after: after.as_deref(),
            letters: bound.rows,
            bytes: bound.bytes,
        };
        let read = self.store.letters_to_send(&self.pipeline, outbox, page);
        let LettersRead { letters, cut } = read.await?;
        let is_full = letters.len() >= bound.rows as usize || cut.is_some();
        let any = !letters.is_empty() || cut.is_some();
        let last_key = letters.last().and_then(|letter| letter.key.clone());
        // A letter that has no others before it is the first of the next round too.
        let go_on_behind = if letters.is_empty() { after } else { last_key };
        let mut rows = self.render_letters(letters, window).await;
        let end = match cut {
            None => End::All,
            Some(Cut::Before(row)) => End::Before(row),
            Some(Cut::Large(large)) if self.never_fits(&large) => {
                let seq = Seq {
                    window,
                    id: large.row.id,
                };
                // Its key is in the table.
                let poison = Poison::RecordTooLarge {
                    key: "".into(),
                    bytes: large.payload_bytes,
                    limit: self.renderer.largest_payload(),
                };
                rows.poison.push((seq, poison));
                End::Behind(seq.id)
            }
            Some(Cut::Large(large)) => End::before_large(&large),
        };
        Ok(Some(Done::LettersToSend {
            any,
            go_on_behind: go_on_behind.filter(|_| is_full),
            rows,
            end,
        }))
    }

    /// Renders letters in order; behind one that cannot be sent the others of its
    /// key are left for later.
    async fn render_letters(&self, letters: Vec<LetterAgain>, window: WindowNumber) -> Again {
        let mut rendered = Again::default();
        let mut freeing = HashSet::new();
        let mut held: HashSet<String> = HashSet::new();
        for letter in letters {
            let LetterAgain {
                row,
                key,
                frees_key,
            } = letter;
            if key.as_ref().is_some_and(|key| held.contains(key)) {
                continue;
            }
            let seq = Seq { window, id: row.id };
            match self.envelope(row, window).await {
                Ok(envelope) => {
                    if frees_key && key.as_deref() == Some(&*envelope.key) {
                        freeing.insert(seq.id);
                    }
                    rendered.push(envelope);
                }
                Err(poison) => {
                    held.extend(key);
                    rendered.poison.push((seq, poison));
                }
            }
        }
        rendered.letters = Some(freeing);
        rendered
    }

    async fn save_letters(self, outcomes: Vec<LetterOutcome>) -> Result<Option<Done>, StoreError> {
        let pipeline = Arc::clone(&self.pipeline);
        let fenced = self
            .store
            .save_letters(&pipeline, self.epoch, &outcomes)
            .await?;
        Ok(Some(Done::LettersSaved(outcomes.len(), fenced)))
    }
}
