//! What the rows that are sent again need of the database.

use futures::future::BoxFuture;

use super::letters::{LetterOutcome, LetterPage, LettersRead};
use crate::core::page::{ReadBound, RowPage};
use crate::core::ports::{Epoch, Fenced, OutboxId, PipelineName, StoreError};
use crate::core::position::RowId;
use crate::core::snapshot::Snapshot;

/// A replay that somebody asked for: a row of `tide.relay_replay`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayRequest {
    /// Its id.
    pub id: i64,
    /// The first row that was asked for.
    pub from: RowId,
    /// The last one.
    pub to: RowId,
    /// Every row of the range below this is confirmed or skipped.
    pub next: RowId,
    /// Rows confirmed so far.
    pub sent: u64,
    /// Rows so far that cannot be sent.
    pub skipped: u64,
}

/// How far a replay has come. All of it is totals: written twice, since the first
/// answer was lost, it says the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayProgress {
    /// Which.
    pub request: i64,
    /// As [`ReplayRequest::next`].
    pub next: RowId,
    /// As [`ReplayRequest::sent`].
    pub sent: u64,
    /// As [`ReplayRequest::skipped`].
    pub skipped: u64,
    /// Whether nothing is left of the range.
    pub done: bool,
}

/// Whether progress was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayWrite {
    /// It was.
    Written,
    /// The request was cancelled meanwhile.
    Cancelled,
    /// A newer epoch exists: the writer no longer owns the pipeline.
    Stale,
}

/// Which rows are read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgainRequest {
    /// The pipeline: rows that are parked as dead letters of it are left out.
    pub pipeline: PipelineName,
    /// The outbox.
    pub outbox: OutboxId,
    /// Only rows visible in this: what the reader has read.
    pub seen: Snapshot,
    /// Only ids above this.
    pub after: RowId,
    /// Only ids up to this.
    pub to: RowId,
    /// At most so much.
    pub bound: ReadBound,
}

/// Requests to send rows again. By default there are none.
pub trait ResendStore: Send + Sync {
    /// The pipelines of the database for which something waits to be sent again:
    /// asked once a second for all of them.
    fn wanted_resends(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// The oldest replay of the pipeline that is not finished.
    fn next_replay<'a>(
        &'a self,
        pipeline: &'a str,
        epoch: Epoch,
    ) -> BoxFuture<'a, Result<Option<ReplayRequest>, StoreError>> {
        let _ = (pipeline, epoch);
        Box::pin(async { Ok(None) })
    }

    /// Reads rows that were read before, in id order.
    fn read_again<'a>(
        &'a self,
        request: &'a AgainRequest,
    ) -> BoxFuture<'a, Result<RowPage, StoreError>> {
        let _ = request;
        Box::pin(async { Ok(RowPage::default()) })
    }

    /// Writes progress down, if `epoch` is the pipeline's newest.
    fn save_replay<'a>(
        &'a self,
        pipeline: &'a str,
        epoch: Epoch,
        progress: &'a ReplayProgress,
    ) -> BoxFuture<'a, Result<ReplayWrite, StoreError>> {
        let _ = (pipeline, epoch, progress);
        Box::pin(async { Ok(ReplayWrite::Written) })
    }

    /// The first letters to be sent again of each key, and all that have none, each
    /// key's in delivery order.
    fn letters_to_send<'a>(
        &'a self,
        pipeline: &'a str,
        outbox: OutboxId,
        page: LetterPage<'a>,
    ) -> BoxFuture<'a, Result<LettersRead, StoreError>> {
        let _ = (pipeline, outbox, page);
        Box::pin(async { Ok(LettersRead::default()) })
    }

    /// Writes down what became of letters, if `epoch` is the pipeline's newest.
    fn save_letters<'a>(
        &'a self,
        pipeline: &'a str,
        epoch: Epoch,
        outcomes: &'a [LetterOutcome],
    ) -> BoxFuture<'a, Result<Fenced, StoreError>> {
        let _ = (pipeline, epoch, outcomes);
        Box::pin(async { Ok(Fenced::Written) })
    }
}
