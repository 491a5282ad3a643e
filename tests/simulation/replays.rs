//! Replays: the rules of `postgres::replay` and `migrations/0006_replay.sql`.

use tidegate::core::ports::{Epoch, OutboxId};
use tidegate::core::position::RowId;
use tidegate::core::resend::{AgainRequest, ReplayProgress, ReplayRequest, ReplayWrite};
use tidegate::core::row::OutboxRow;
use tidegate::core::time::Moment;

use super::letters::State;
use super::{Database, Row, read};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplayState {
    Open,
    Done,
    Cancelled,
}

#[derive(Debug, Clone)]
pub(crate) struct Replay {
    pub(crate) pipeline: String,
    pub(crate) request: ReplayRequest,
    pub(crate) state: ReplayState,
    /// Rows that had been delivered when it was asked for: they must come again.
    pub(crate) must_come: Vec<RowId>,
}

impl Replay {
    pub(crate) fn covers(&self, pipeline: &str, row: RowId) -> bool {
        self.pipeline == pipeline && self.request.from <= row && row <= self.request.to
    }
}

impl Database {
    pub(crate) fn outbox_of(&self, pipeline: &str) -> OutboxId {
        self.outboxes_of[pipeline]
    }

    /// `WANTED`.
    pub(crate) fn wanted_resends(&self) -> Vec<String> {
        let replays = self.replays.iter();
        let open = replays.filter(|one| one.state == ReplayState::Open);
        let mut wanted: Vec<String> = open.map(|one| one.pipeline.clone()).collect();
        wanted.extend(self.letters.wanted_of().cloned());
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    pub(crate) fn open_replays(&self) -> usize {
        let is_open = |one: &&Replay| one.state == ReplayState::Open;
        self.replays.iter().filter(is_open).count()
    }

    pub(crate) fn has_cancelled_replays(&self) -> bool {
        let mut all = self.replays.iter();
        all.any(|one| one.state == ReplayState::Cancelled)
    }

    /// `relay_replay`.
    pub(crate) fn ask_replay(
        &mut self,
        pipeline: &str,
        from: RowId,
        to: RowId,
        must_come: Vec<RowId>,
    ) {
        self.replays.push(Replay {
            pipeline: pipeline.to_owned(),
            request: ReplayRequest {
                id: i64::try_from(self.replays.len()).expect("few") + 1,
                from,
                to,
                next: from,
                sent: 0,
                skipped: 0,
            },
            state: ReplayState::Open,
            must_come,
        });
        self.commits();
    }

    /// `relay_replay_cancel`.
    pub(crate) fn cancel_replays(&mut self, pipeline: &str) {
        for one in &mut self.replays {
            if one.pipeline == pipeline && one.state == ReplayState::Open {
                one.state = ReplayState::Cancelled;
            }
        }
        self.commits();
    }

    /// `NEXT`.
    pub(crate) fn next_replay(&self, pipeline: &str, epoch: Epoch) -> Option<ReplayRequest> {
        let owned = self.positions.get(pipeline)?;
        let is_next = |one: &&Replay| one.pipeline == pipeline && one.state == ReplayState::Open;
        let next = self.replays.iter().find(is_next)?;
        (owned.epoch == epoch).then(|| next.request.clone())
    }

    /// `READ_AGAIN`.
    pub(crate) fn read_again(&self, request: &AgainRequest, now: Moment) -> Vec<OutboxRow> {
        let outbox = request.outbox;
        let after = request.after.saturating_add(1).max(1);
        if after > request.to {
            return Vec::new();
        }
        let is_undelivered = |row: &Row| {
            let letter = self.letters.get(&request.pipeline, row.id);
            letter.is_some_and(|letter| letter.state != State::Delivered)
        };
        let rows = self.rows.range((outbox, after)..=(outbox, request.to));
        rows.map(|(_, row)| row)
            .filter(|row| request.seen.sees(row.xid) && !is_undelivered(row))
            .take(request.bound.rows as usize)
            .map(|row| read(row, now))
            .collect()
    }

    /// `SAVE` of replays.
    pub(crate) fn save_replay(
        &mut self,
        pipeline: &str,
        epoch: Epoch,
        progress: &ReplayProgress,
    ) -> ReplayWrite {
        let owned = self.positions.get(pipeline);
        if owned.is_none_or(|stored| stored.epoch != epoch) {
            return ReplayWrite::Stale;
        }
        let mut all = self.replays.iter_mut();
        let Some(one) = all.find(|one| one.request.id == progress.request) else {
            return ReplayWrite::Cancelled;
        };
        let is_wanted = match one.state {
            ReplayState::Open => true,
            ReplayState::Done => progress.done,
            ReplayState::Cancelled => false,
        };
        if !is_wanted {
            return ReplayWrite::Cancelled;
        }
        let request = &mut one.request;
        request.next = request.next.max(progress.next);
        request.sent = request.sent.max(progress.sent);
        request.skipped = request.skipped.max(progress.skipped);
        if progress.done {
            one.state = ReplayState::Done;
        }
        self.commits();
        ReplayWrite::Written
    }
}
