//! What a reader shows of itself: its state, gauges and backlog.

use std::sync::Arc;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::OutboxReader;
use crate::actors::messages::RejectedRow;
use crate::admin::status::{PipelineState, ReplayStatus, WaitStatus};
use crate::core::ports::Backlog;
use crate::core::position::Seq;
use crate::core::render::Poison;

/// Counting a backlog stops here: it must be cheap at any size.
const BACKLOG_BOUND: u32 = 10_000;

impl OutboxReader {
    /// Rows are read: whether they also flow is for the stream to say.
    pub(super) fn is_running(&mut self) {
        if self.stopped.is_some() {
            return;
        }
        let is_blocked = matches!(self.state, PipelineState::Blocked { .. });
        if is_blocked && self.intake.is_held() {
            return;
        }
        let state = match self.stream.keeps_waiting() {
            None => PipelineState::Running,
            Some(reason) => PipelineState::Waiting { reason },
        };
        self.set_state(state);
    }

    /// A stream gets into trouble, and out of it, whether rows are read or not.
    fn look_at_stream(&mut self) {
        let database_answers = self.backoff.failures() == 0;
        let may_change = match self.state {
            PipelineState::Running | PipelineState::Waiting { .. } => database_answers,
            PipelineState::Starting
            | PipelineState::Standby { .. }
            | PipelineState::Blocked { .. }
            | PipelineState::Failed { .. }
            | PipelineState::Stopped
            | PipelineState::Paused { .. }
            | PipelineState::Invalid { .. } => false,
        };
        if may_change {
            self.is_running();
        }
    }

    pub(super) fn block(&mut self, seq: Seq, poison: &Poison) {
        let reason = poison.to_string();
        let state = PipelineState::Blocked {
            row_id: seq.id,
            reason: reason.clone(),
        };
        if self.state != state {
            tracing::error!(
                pipeline = %self.key, row = seq.id, code = poison.code(), %reason,
                "a row cannot be sent; the pipeline waits before it, nothing is skipped"
            );
            self.metrics.row_blocked();
        }
        self.set_state(state);
    }

    /// The service does not take a row: nothing more is read, what else was
    /// handed goes on. After a while the pipeline starts again before that row.
    pub(super) fn hold_at(&mut self, rejected: RejectedRow) {
        let reason = rejected.shown.clone();
        tracing::error!(
            pipeline = %self.key, row = rejected.row.envelope.seq.id, %reason,
            "a row cannot be sent; the pipeline waits before it, nothing is skipped"
        );
        self.metrics.row_blocked();
        self.intake.stop_reading();
        let row_id = rejected.row.envelope.seq.id;
        self.set_state(PipelineState::Blocked { row_id, reason });
        self.rejected = Some(rejected);
    }

    pub(super) fn set_state(&mut self, state: PipelineState) {
        if self.state == state {
            return;
        }
        match &state {
            PipelineState::Waiting { reason } => {
                tracing::warn!(pipeline = %self.key, %reason, "waiting")
            }
            PipelineState::Running => {
                tracing::info!(pipeline = %self.key, epoch = %self.work.epoch, "running")
            }
            PipelineState::Starting
            | PipelineState::Standby { .. }
            | PipelineState::Blocked { .. }
            | PipelineState::Failed { .. }
            | PipelineState::Stopped
            | PipelineState::Paused { .. }
            | PipelineState::Invalid { .. } => {}
        }
        self.metrics.state(&state);
        let epoch = self.work.epoch.0;
        self.board
            .update_pipeline(&self.key.database, &self.key.name, |entry| {
                entry.state = state.clone();
                entry.epoch = Some(epoch);
            });
        self.state = state;
    }

    /// Brings what is shown up to date.
    pub(super) fn show(&mut self, context: &mut Context<Self>) {
        self.miss_a_dead_probe(context);
        self.hear();
        let now = self.now();
        self.note_limit(self.limited.map(|(by, _)| by), now);
        let doing = self.doing(now);
        let waits = WaitStatus::of(self.pulse.says(doing, now));
        self.look_at_stream();
        let letters = self.intake.letters();
        let unsettled = self.intake.handed() + self.intake.stashed() + letters;
        let (in_flight, bytes) = (self.tag.own.rows(), self.tag.own.bytes());
        let (windows, stashed) = (self.intake.open_windows(), self.intake.stashed());
        let is_waiting = self.resend.handed() == 0 && !self.intake.may_resend();
        let replay = self.resend.request().map(|request| ReplayStatus {
            replay: request.id,
            from_id: request.from,
            to_id: request.to,
            next_id: request.next,
            state: if is_waiting { "waiting" } else { "running" },
        });
        self.metrics.in_flight(in_flight + stashed + letters, bytes);
        self.metrics.windows_open(windows);
        self.metrics.deferred_rows(stashed);
        self.board
            .update_pipeline(&self.key.database, &self.key.name, |entry| {
                entry.in_flight_rows = unsettled as u64;
                entry.in_flight_bytes = bytes as u64;
                entry.open_windows = windows as u64;
                entry.deferred_rows = stashed as u64;
                entry.replay = replay;
                entry.shows_wait(Some(waits), false);
            });
    }

    /// Whether the probe, which looks for all readers of the database at once, has said
    /// of late that there is nothing to read.
    fn hears_of_nothing(&self) -> bool {
        self.watching && self.heard.is_fresh(self.now())
    }

    pub(super) fn count_backlog(&mut self, context: &mut Context<Self>) {
        if self.hears_of_nothing() {
            self.show_backlog(&Backlog::default());
            return;
        }
        let (store, outbox) = (Arc::clone(&self.work.store), self.work.renderer.outbox.id);
        let seen = self.intake.read_up_to();
        let count = self
            .workers
            .spawn(async move { store.backlog(outbox, &seen, BACKLOG_BOUND).await });
        self.rounds.counting = true;
        context.spawn(count.into_actor(self).map(|counted, reader, _| {
            reader.rounds.counting = false;
            let Ok(Ok(unread)) = counted else {
                return;
            };
            reader.show_backlog(&unread);
        }));
    }

    /// `unread`: what has not been read yet.
    pub(super) fn show_backlog(&self, unread: &Backlog) {
        let now = self.now();
        let known = self.intake.oldest().and_then(|(_, since)| since);
        let oldest = known.map_or(unread.oldest, |since| now.since(since).max(unread.oldest));
        let rows = unread.rows + (self.intake.handed() + self.intake.stashed()) as u64;
        self.metrics.lag(rows, oldest);
        self.board
            .update_pipeline(&self.key.database, &self.key.name, |entry| {
                entry.lag_rows = rows;
                entry.lag_at_least = unread.at_least;
                entry.lag_oldest_seconds = oldest.as_secs_f64();
            });
    }
}
