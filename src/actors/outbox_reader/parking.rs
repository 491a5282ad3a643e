//! What a reader does with rows that cannot be sent, and with what is known of
//! the pipeline's letters.
//!
//! Before it reads anything it looks up which keys are blocked and how far rows
//! with letters go; while there are any, it looks again every few seconds, since
//! persons retry and discard letters.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::Context;

use super::OutboxReader;
use crate::actors::child::Exit;
use crate::actors::messages::{Purpose, RejectedRow, RoutedRow};
use crate::core::dead_letter::{DeadLetter, LetterReason, LetterState, OnPoison};
use crate::core::intake::parking::behind;
use crate::core::ports::{Letters, MOST_BLOCKED_KEYS};
use crate::core::position::Seq;
use crate::core::render::Poison;
use crate::core::shard_map::hash_key;

/// A key whose rows come back from the writers.
pub(super) struct ComingBack {
    hash: u128,
    /// The last row that was handed before the reader knew.
    last: Seq,
}

impl OutboxReader {
    // === Letters ===

    pub(super) fn letter_of(&self, seq: Seq, poison: &Poison, weight: usize) -> DeadLetter {
        let key = poison.key().map(Arc::clone);
        let state = self.intake.state_for(key.as_deref().map(hash_key));
        DeadLetter {
            seq,
            blocks_key: self.work.on_poison == OnPoison::BlockKey && key.is_some(),
            key,
            reason: LetterReason::from(poison),
            message: poison.to_string(),
            state,
            weight,
        }
    }

    pub(super) fn say_parked(&self, seq: Seq, code: &str, reason: &str) {
        tracing::warn!(
            pipeline = %self.key, row = seq.id, code, %reason,
            "a row cannot be sent and is parked as a dead letter; `tidegate dlq` shows it"
        );
    }

    /// The service does not take a row, or rows behind one were not sent.
    pub(super) fn take_rejected(&mut self, rejected: Option<RejectedRow>, unsent: Vec<RoutedRow>) {
        if let Some(rejected) = rejected {
            match (rejected.row.purpose, self.work.on_poison) {
                (Purpose::Again, _) => self.leave_out(rejected),
                (Purpose::Letter, _) => self.park_letter_again(rejected),
                (Purpose::Live, OnPoison::Halt) => self.hold_at(rejected),
                (Purpose::Live, OnPoison::Park | OnPoison::BlockKey) => {
                    self.park_rejected(rejected);
                }
            }
        }
        for RoutedRow {
            envelope,
            ticket,
            purpose,
            ..
        } in unsent
        {
            ticket.settle();
            let (seq, hash) = (envelope.seq, envelope.hash);
            match purpose {
                Purpose::Again => {
                    self.metrics.rows_returned(1);
                    self.resend.came_back(seq);
                }
                Purpose::Letter => {
                    self.metrics.rows_returned(1);
                    self.letters.came_back(seq);
                }
                Purpose::Live => {
                    let now = self.now();
                    self.intake.park_handed(hash, behind(&envelope), now);
                }
            }
        }
    }

    fn park_rejected(&mut self, rejected: RejectedRow) {
        let RejectedRow { row, reason, shown } = rejected;
        let RoutedRow {
            envelope, ticket, ..
        } = row;
        ticket.settle();
        let (seq, hash) = (envelope.seq, envelope.hash);
        let blocks_key = self.work.on_poison == OnPoison::BlockKey;
        if blocks_key {
            self.await_key(hash);
        }
        self.say_parked(seq, LetterReason::RecordRejected.code(), &shown);
        let letter = DeadLetter {
            seq,
            weight: envelope.weight(),
            key: Some(envelope.key),
            reason: LetterReason::RecordRejected,
            message: reason,
            state: LetterState::Parked,
            blocks_key,
        };
        let now = self.now();
        self.intake.park_handed(hash, letter, now);
    }

    /// The writer gives back what it has of a key, and what is on its way to it.
    pub(super) fn await_key(&mut self, hash: u128) {
        match self.intake.last_handed(hash) {
            Some(last) => self.coming_back.push(ComingBack { hash, last }),
            None => self.tag.rejected_keys.remove(hash),
        }
    }

    /// Keys of which everything has come back are free for the writers again.
    pub(super) fn free_rejected_keys(&mut self) {
        let (intake, tag) = (&self.intake, &self.tag);
        self.coming_back.retain(|key| {
            let waits = intake.waits_for(key.hash, key.last);
            if !waits {
                tag.rejected_keys.remove(key.hash);
            }
            waits
        });
    }

    /// A save is done, and with it these letters; answers whether there were any.
    pub(super) fn letters_written(&mut self) -> bool {
        let written = self.intake.letters_written();
        if written.is_empty() {
            return false;
        }
        self.has_letters = true;
        self.letters_due = true;
        for letter in &written {
            self.metrics.parked(letter.reason);
            if let Some(key) = letter.key.as_deref().filter(|_| letter.blocks_key) {
                self.letters.block_again(hash_key(key));
            }
        }
        let mut rows: BTreeMap<&'static str, u64> = BTreeMap::new();
        for letter in &written {
            *rows.entry(letter.reason.code()).or_default() += 1;
        }
        let rows: Vec<(&'static str, u64)> = rows.into_iter().collect();
        self.board
            .rows_parked(&self.key.database, &self.key.name, &rows);
        true
    }

    // === What is known of them ===

    pub(super) fn look_up_letters(&mut self, context: &mut Context<Self>) {
        let task = self.work.clone().letters();
        self.start(task, context);
    }

    pub(super) fn know_letters(&mut self, letters: Letters, context: &mut Context<Self>) {
        self.letters_due = false;
        if !self.knows_letters {
            self.knows_letters = true;
            self.work.highest_lettered = letters.highest_row;
        }
        self.has_letters |= letters.highest_row > 0;
        let coming_back: Vec<u128> = self.coming_back.iter().map(|key| key.hash).collect();
        let is_blocked = |key: &String| !self.letters.has_freed(hash_key(key));
        let blocked: Vec<String> = letters
            .blocked_keys
            .into_iter()
            .filter(is_blocked)
            .collect();
        self.intake.know_blocked(&blocked, coming_back);
        self.metrics.letters_open(letters.open);
        let blocked = self.intake.blocked_keys() as u64;
        self.board
            .update_pipeline(&self.key.database, &self.key.name, |entry| {
                entry.dead_letters_open = letters.open;
                entry.blocked_keys = blocked;
            });
        if self.intake.blocked_keys() > MOST_BLOCKED_KEYS {
            let reason = format!(
                "over {MOST_BLOCKED_KEYS} keys are blocked by dead letters: the fault is not in single rows; \
                 mend it, then SELECT tide.relay_dlq_retry_all('{}'), or set on_poison to \"park\"",
                self.key.name
            );
            self.end(Exit::Refused(reason), context);
        }
    }
}
