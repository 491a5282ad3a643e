//! What a reader does for rows that are sent again (see [`crate::core::resend`]).
//!
//! They take turns with the live flow: after each page of them the intake's wish
//! comes first.

use std::collections::HashSet;
use std::sync::Arc;

use actix::{Context, Handler};

use super::room::Reading;
use super::work::{Done, End, Work, clamp};
use super::{OutboxReader, PERMIT_RETRY};
use crate::actors::child::Exit;
use crate::actors::fault;
use crate::actors::messages::{LookForResends, Purpose, RejectedRow};
use crate::core::page::{Cut, ReadBound, RowPage};
use crate::core::ports::StoreError;
use crate::core::position::{RowId, Seq, WindowNumber};
use crate::core::render::Poison;
use crate::core::resend::{AgainRequest, ReplayProgress, ReplayWrite, ResendWish};
use crate::core::row::{Envelope, OutboxRow};
use crate::core::sabotage::{self, Bug};
use crate::core::snapshot::Snapshot;
use crate::core::time::Moment;

/// Rows that were read again, under the number they would get.
#[derive(Debug, Default)]
pub(super) struct Again {
    pub(super) ready: Vec<Envelope>,
    /// Those that cannot be sent.
    pub(super) poison: Vec<(Seq, Poison)>,
    /// Whether they are dead letters, and which of them free their keys.
    pub(super) letters: Option<HashSet<RowId>>,
    /// What those that can be sent take in memory.
    pub(super) memory: usize,
}

impl Again {
    /// Adds a row that can be sent.
    pub(super) fn push(&mut self, envelope: Envelope) {
        self.memory += envelope.memory();
        self.ready.push(envelope);
    }

    /// Whether a row is among them.
    pub(super) fn has(&self, row: RowId) -> bool {
        let ready = self.ready.iter().map(|envelope| envelope.seq.id);
        let poison = self.poison.iter().map(|(seq, _)| seq.id);
        ready.chain(poison).any(|id| id == row)
    }
}

impl OutboxReader {
    /// Does something for the rows that are sent again, if it is their turn;
    /// answers whether it did.
    pub(super) fn resend(&mut self, now: Moment, context: &mut Context<Self>) -> bool {
        let is_their_turn = !std::mem::take(&mut self.live_first);
        if self.draining || self.opened.is_some() || self.opened_again.is_some() {
            return false;
        }
        let room = self.room(Reading::Again, now);
        let room_rows = if room.bytes == 0 { 0 } else { room.rows };
        if self.resend_letters(is_their_turn, room_rows, now, context) {
            self.live_first = true;
            return true;
        }
        let may_hand = is_their_turn && self.intake.may_resend();
        let work = self.work.clone();
        match self.resend.next_wish(may_hand, room_rows, now) {
            ResendWish::Look => self.start(work.look_for_replay(), context),
            ResendWish::Read { after, to, limit } => {
                let Some(bytes) = self.reserve(Reading::Again, limit) else {
                    self.wake_at(now + PERMIT_RETRY, context);
                    return false;
                };
                let bound = ReadBound {
                    rows: clamp(limit),
                    bytes,
                };
                let seen = self.intake.head().clone();
                let window = self.last_number.next();
                self.start(work.read_again(seen, after, to, bound, window), context);
            }
            ResendWish::Save(progress) => self.start(work.save_replay(progress), context),
            ResendWish::Wait { until } => {
                if let Some(until) = until {
                    self.wake_at(until, context);
                }
                return false;
            }
        }
        self.live_first = true;
        true
    }

    /// Rows were read again: those that can go get a window number, which is
    /// written down first.
    pub(super) fn take_again(
        &mut self,
        after: RowId,
        ids: &[RowId],
        is_last: bool,
        mut rows: Again,
    ) {
        self.resend.rows_read(after, ids, is_last);
        for (seq, poison) in rows.poison.drain(..) {
            if self.resend.is_wanted(seq.id) {
                tracing::warn!(
                    pipeline = %self.key, row = seq.id, reason = %poison,
                    "a row of a replay cannot be sent; it is left out"
                );
                self.resend.skip(seq.id);
            }
        }
        let free = self.resend.free();
        // Behind a row that has to wait, the rows of its lane wait too.
        let (intake, resend) = (&self.intake, &self.resend);
        rows.ready
            .retain(|row| resend.is_wanted(row.seq.id) && intake.takes_resent(row.hash));
        rows.ready.truncate(free);
        self.resend.passed(rows.ready.len(), self.now());
        if !rows.ready.is_empty() && self.intake.may_resend() {
            self.last_number = self.intake.number_resend();
            self.reading_room.shrink_to(rows.memory);
            self.opened_again = Some(rows);
        }
    }

    /// The number of these rows is written down: they go. Rows of a replay were read
    /// before letters that were written since: those may be of the same rows, which
    /// are not delivered by the way. They are read again.
    pub(super) fn hand_again(&mut self, has_parked: bool) {
        let Some(rows) = self.opened_again.take() else {
            return;
        };
        if self.tag.is_recalled() {
            return;
        }
        let is_stale = has_parked || self.intake.letters() > 0;
        if rows.letters.is_none() && is_stale && !sabotage::is(Bug::ReplayPassesLetters) {
            return;
        }
        let bytes = rows.ready.iter().map(Envelope::weight).sum();
        self.metrics.rows_read(rows.ready.len(), bytes);
        if let Some(freeing) = rows.letters {
            self.hand_letters(rows.ready, &freeing);
            return;
        }
        for row in &rows.ready {
            self.resend.hand(row.seq);
        }
        self.hand(rows.ready, Purpose::Again);
    }

    /// The service does not take a row of a replay: it is left out.
    pub(super) fn leave_out(&mut self, rejected: RejectedRow) {
        let RejectedRow { row, shown, .. } = rejected;
        let seq = row.envelope.seq;
        row.ticket.settle();
        self.metrics.rows_returned(1);
        tracing::warn!(
            pipeline = %self.key, row = seq.id, reason = %shown,
            "a row of a replay cannot be sent; it is left out"
        );
        self.resend.rejected(seq);
    }

    pub(super) fn replay_saved(
        &mut self,
        progress: &ReplayProgress,
        written: ReplayWrite,
        context: &mut Context<Self>,
    ) {
        let wanted = match written {
            ReplayWrite::Written => true,
            ReplayWrite::Cancelled => false,
            ReplayWrite::Stale => {
                self.end(Exit::LeaseLost, context);
                return;
            }
        };
        if progress.done || !wanted {
            tracing::info!(pipeline = %self.key, replay = progress.request, cancelled = !wanted, "a replay is over");
        }
        self.resend.saved(progress, wanted, self.now());
    }
}

impl Work {
    async fn render_again(&self, rows: Vec<OutboxRow>, window: WindowNumber) -> Again {
        let mut rendered = Again::default();
        for row in rows {
            let seq = Seq { window, id: row.id };
            match self.envelope(row, window).await {
                Ok(envelope) => rendered.push(envelope),
                Err(poison) => rendered.poison.push((seq, poison)),
            }
        }
        rendered
    }

    async fn look_for_replay(self) -> Result<Option<Done>, StoreError> {
        let found = self.store.next_replay(&self.pipeline, self.epoch).await?;
        Ok(Some(Done::LookedForReplay(found)))
    }

    async fn read_again(
        self,
        seen: Snapshot,
        after: RowId,
        to: RowId,
        bound: ReadBound,
        window: WindowNumber,
    ) -> Result<Option<Done>, StoreError> {
        let request = AgainRequest {
            pipeline: Arc::clone(&self.pipeline),
            outbox: self.renderer.outbox.id,
            seen,
            after,
            to,
            bound,
        };
        let RowPage { rows: found, cut } = self.store.read_again(&request).await?;
        let mut ids: Vec<RowId> = found.iter().map(|row| row.id).collect();
        let is_last = ids.len() < bound.rows as usize && cut.is_none();
        let mut rows = self.render_again(found, window).await;
        let end = match cut {
            None => End::All,
            Some(Cut::Before(row)) => End::Before(row),
            Some(Cut::Large(large)) if self.never_fits(&large) => {
                let id = large.row.id;
                let poison = self.poison_of(*large).await?;
                rows.poison.push((Seq { window, id }, poison));
                ids.push(id);
                End::Behind(id)
            }
            Some(Cut::Large(large)) => End::before_large(&large),
        };
        Ok(Some(Done::ReadAgain {
            after,
            ids,
            is_last,
            rows,
            end,
        }))
    }

    async fn save_replay(self, progress: ReplayProgress) -> Result<Option<Done>, StoreError> {
        let written = self
            .store
            .save_replay(&self.pipeline, self.epoch, &progress)
            .await?;
        Ok(Some(Done::ReplaySaved(progress, written)))
    }
}

impl Handler<LookForResends> for OutboxReader {
    type Result = ();

    fn handle(&mut self, _: LookForResends, context: &mut Self::Context) {
        fault::point("outbox_reader.LookForResends");
        self.resend.notice();
        self.letters.notice();
        self.go_on(context);
    }
}
