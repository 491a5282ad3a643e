//! What a reader does with what was read: into the intake, on to the router.

use std::sync::Arc;

use actix::{Context, Handler};

use super::OutboxReader;
use super::room::Reading;
use super::work::{Done, Fetched, Item, Rendered};
use crate::actors::child::Exit;
use crate::actors::fault;
use crate::actors::messages::{Batch, Outcomes, Purpose, RoutedRow};
use crate::actors::ticket::Ticket;
use crate::actors::violations;
use crate::admin::metrics::{PositionWrite, ResentSource};
use crate::core::company::patience;
use crate::core::dead_letter::OnPoison;
use crate::core::intake::StashOf;
use crate::core::invariants::{Invariant, Violation};
use crate::core::ports::Fenced;
use crate::core::position::{Seq, WindowNumber};
use crate::core::row::Envelope;
use crate::core::sabotage::{self, Bug};

impl OutboxReader {
    pub(super) fn take(&mut self, done: Done, context: &mut Context<Self>) {
        match done {
            Done::Opened {
                snapshot,
                taken_at,
                fetched,
            } => {
                if matches!(&fetched, Fetched::Whole(rows) if rows.read == 0) {
                    self.intake.nothing_new(snapshot, taken_at);
                    self.is_running();
                    return;
                }
                let window = self.intake.open_window(snapshot, taken_at);
                self.reading_room.shrink_to(fetched.rows().memory);
                self.last_number = window;
                if sabotage::is(Bug::HandBeforeSave) {
                    self.take_window(window, fetched);
                } else {
                    self.opened = Some((window, fetched));
                }
            }
            Done::Reopened { window, fetched } => {
                // The write is fenced: it tells whether the database that was read
                // is the one whose position says what this window is.
                self.intake.must_be_written();
                self.reading_room.shrink_to(fetched.rows().memory);
                self.opened = Some((window, fetched));
            }
            Done::ServerChanged => {
                tracing::warn!(pipeline = %self.key, "another server answers than before, or the same one after a restart; the pipeline is taken anew");
                self.end(Exit::LeaseLost, context);
            }
            Done::Page {
                window,
                rows,
                is_last,
            } => {
                let is_held = self.take_rows(rows);
                if is_last && !is_held {
                    self.intake.end_window(window);
                }
            }
            Done::Refilled { lane, asked, rows } => self.take_back(lane, &asked, rows),
            Done::Saved(fenced) if fenced == Fenced::Written || sabotage::is(Bug::IgnoreStale) => {
                self.all_metrics.position_write(PositionWrite::Written);
                self.intake.saved(self.now());
                let has_parked = self.letters_written();
                if let Some((window, fetched)) = self.opened.take() {
                    self.take_window(window, fetched);
                }
                self.hand_again(has_parked);
            }
            Done::LookedForReplay(found) => {
                if let Some(replay) = &found {
                    tracing::info!(pipeline = %self.key, replay = replay.id, from = replay.from, to = replay.to, next = replay.next, "a replay goes on");
                }
                self.resend.looked(found);
            }
            Done::ReadAgain {
                after,
                ids,
                is_last,
                rows,
                end,
            } => {
                self.reading_room
                    .note(Reading::Again, end, |row| ids.contains(&row));
                self.take_again(after, &ids, is_last, rows);
            }
            Done::ReplaySaved(progress, written) => self.replay_saved(&progress, written, context),
            Done::LettersToSend {
                any,
                go_on_behind,
                rows,
                end,
            } => {
                self.reading_room
                    .note(Reading::Again, end, |row| rows.has(row));
                self.take_letters(any, go_on_behind, rows);
            }
            Done::LettersSaved(saved, fenced) => self.letters_saved(saved, fenced, context),
            Done::Letters(letters) => self.know_letters(letters, context),
            Done::Saved(Fenced::Written | Fenced::Stale) => {
                self.all_metrics.position_write(PositionWrite::Stale);
                self.end(Exit::LeaseLost, context);
            }
        }
    }

    fn take_window(&mut self, window: WindowNumber, fetched: Fetched) {
        match fetched {
            Fetched::Bounds {
                read,
                first,
                first_fresh,
                last,
            } => {
                self.intake.begin_paging(window, first, first_fresh, last);
                self.take_rows(read);
            }
            Fetched::Whole(rows) => {
                if !self.take_rows(rows) {
                    self.intake.end_window(window);
                }
            }
        }
    }

    /// Takes rows in; answers whether reading is held before one of them.
    fn take_rows(&mut self, rows: Rendered) -> bool {
        self.end_reservation();
        self.note_live(&rows);
        self.be_patient(&rows);
        let mut room = self.room_for(rows.items.len());
        let mut handed = Vec::with_capacity(rows.items.len());
        let (stashed, letters) = (self.intake.stashed(), self.intake.letters());
        let mut held = None;
        for item in rows.items {
            match item {
                Item::Ready(ready) => handed.extend(self.intake.take_in(ready, &mut room)),
                Item::Lettered(seq) => self.intake.skip(seq),
                Item::Poison(seq, poison, _) if self.work.on_poison == OnPoison::Halt => {
                    held = Some((seq, poison));
                }
                Item::Poison(seq, poison, weight) => {
                    let letter = self.letter_of(seq, &poison, weight);
                    if self.intake.park_read(letter) {
                        self.say_parked(seq, poison.code(), &poison.to_string());
                    }
                }
            }
        }
        // What an earlier incarnation has settled is not read, just looked at.
        let aside = self.intake.stashed() - stashed + self.intake.letters() - letters;
        self.metrics.rows_read(handed.len() + aside, rows.bytes);
        self.hand(handed, Purpose::Live);
        match held {
            None => {
                self.is_running();
                false
            }
            Some((seq, poison)) => {
                self.intake.hold_before(seq);
                self.block(seq, &poison);
                true
            }
        }
    }

    fn take_back(&mut self, lane: StashOf, asked: &[Seq], rows: Rendered) {
        self.end_reservation();
        self.note_live(&rows);
        if self.tag.is_recalled() {
            // They stay where they are.
            return;
        }
        let mut room = self.room_for(rows.items.len());
        let mut items = rows.items.into_iter().peekable();
        let mut handed = Vec::new();
        let mut held = None;
        for seq in asked {
            let found = items.next_if(|item| match item {
                Item::Ready(ready) => ready.envelope.seq == *seq,
                Item::Lettered(of) | Item::Poison(of, _, _) => of == seq,
            });
            match found {
                Some(Item::Ready(ready)) => {
                    handed.extend(self.intake.take_back(lane, ready, &mut room));
                }
                Some(Item::Lettered(seq)) => self.intake.stashed_row_is_gone(lane, seq),
                Some(Item::Poison(seq, poison, _)) if self.work.on_poison == OnPoison::Halt => {
                    held = Some((seq, poison));
                    break;
                }
                Some(Item::Poison(seq, poison, weight)) => {
                    let letter = self.letter_of(seq, &poison, weight);
                    self.intake.park_stashed(lane, letter);
                    self.say_parked(seq, poison.code(), &poison.to_string());
                }
                None => {
                    tracing::error!(
                        pipeline = %self.key, row = seq.id,
                        "a row was deleted from the outbox before it was delivered; it cannot be delivered any more"
                    );
                    self.metrics.row_vanished();
                    self.intake.stashed_row_is_gone(lane, *seq);
                }
            }
        }
        self.hand(handed, Purpose::Live);
        if let Some((seq, poison)) = held {
            self.intake.stop_reading();
            self.block(seq, &poison);
        }
    }

    /// Rows that are late may wait for company; the last one is the least late.
    fn be_patient(&self, rows: &Rendered) {
        let mut last = rows.items.iter().rev();
        let since = last.find_map(|item| match item {
            Item::Ready(ready) => Some(ready.visible_since),
            Item::Poison(..) | Item::Lettered(_) => None,
        });
        if let Some(since) = since {
            let (age, own) = (self.now().since(since), &self.tag.own);
            // What the process can spare for this pipeline may be less.
            let free = self.tag.shared.free_bytes() / self.weight.max(1);
            let rows_in_flight = own.most_rows().min(own.rows() + free);
            let shards = self.intake.lanes();
            self.tag.patience.set(patience(age, rows_in_flight, shards));
        }
    }

    fn note_live(&mut self, rows: &Rendered) {
        self.learn_weight(&rows.items);
        let has = |row| rows.items.iter().any(|item| item.row() == row);
        self.reading_room.note(Reading::Live, rows.end, has);
    }

    pub(super) fn hand(&mut self, envelopes: Vec<Envelope>, purpose: Purpose) {
        if envelopes.is_empty() {
            return;
        }
        let bytes = envelopes.iter().map(|envelope| envelope.weight()).sum();
        self.limiter.charge(envelopes.len(), bytes);
        self.quota.charge(envelopes.len(), bytes);
        let last_row = envelopes.last().map_or(0, Envelope::memory);
        if self.reading_room.reserved.is_some() {
            self.end_reservation();
        }
        let tag = &self.tag;
        let memory: Vec<usize> = envelopes.iter().map(Envelope::memory).collect();
        let tickets = Ticket::take_all(tag, &memory, self.pass.take());
        let rows = tickets
            .into_iter()
            .zip(envelopes)
            .map(|(ticket, envelope)| RoutedRow {
                ticket,
                envelope,
                purpose,
                in_doubt: false,
            });
        let batch = Batch {
            tag: Arc::clone(tag),
            rows: rows.collect(),
        };
        self.check_permits(last_row);
        if self.router.try_send(batch).is_err() {
            // The dropped tickets have made the flow void: we are about to end.
            tracing::debug!(pipeline = %self.key, "the router is gone");
        }
    }

    fn check_permits(&self, last_row: usize) {
        let (own, shared) = (&self.tag.own, &self.tag.shared);
        if own.is_within(last_row) && shared.is_within(last_row) {
            return;
        }
        let violation = Violation {
            invariant: Invariant::Bound,
            found: format!(
                "{} rows of {} bytes are on their way",
                own.rows(),
                own.bytes()
            ),
        };
        violations::report(&self.all_metrics, &self.key, vec![violation]);
    }
}

impl Handler<Outcomes> for OutboxReader {
    type Result = ();

    fn handle(&mut self, outcomes: Outcomes, context: &mut Context<Self>) {
        fault::point("outbox_reader.Outcomes");
        fault::strike("outbox_reader", &self.key.name);
        let now = self.now();
        let acks = self.metrics.acks();
        for (seq, hash) in &outcomes.stored {
            if self.resend.settled(*seq) {
                self.metrics.resent(ResentSource::Replay);
            } else if self.letters.settled(*seq, now) {
                self.metrics.resent(ResentSource::Letter);
            } else if let Some(since) = self.intake.settled(*seq, *hash, now) {
                acks.observe(now.since(since).as_secs_f64());
            }
        }
        drop(acks);
        if !outcomes.stored.is_empty() {
            self.pulse.progress();
        }
        let stored = outcomes.stored.len() as u64;
        self.board
            .update_pipeline(&self.key.database, &self.key.name, |entry| {
                entry.delivered_rows += stored;
            });
        self.take_rejected(outcomes.rejected, outcomes.unsent);
        self.take_recalled(outcomes.recalled);
        self.free_rejected_keys();
        self.go_on(context);
    }
}
