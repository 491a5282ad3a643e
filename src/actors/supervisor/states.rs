//! Writing down what pipelines are doing, for those who look in SQL.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::Database;
use crate::actors::clock::Clock;
use crate::admin::status::{PipelineState, PipelineStatus, StatusBoard};
use crate::core::catalog::StateNote;
use crate::core::ports::Epoch;
use crate::core::state_notes::{Saying, StateNotes};

/// Writes the states of one database's pipelines.
#[derive(Clone)]
pub(super) struct StateWriter {
    pub(super) database: Database,
    pub(super) node: Arc<str>,
    pub(super) board: Arc<StatusBoard>,
    pub(super) clock: Clock,
    pub(super) notes: Arc<Mutex<StateNotes>>,
}

impl StateWriter {
    /// Writes what has changed: mostly nothing, and then no statement is sent.
    pub(super) async fn write(&self) {
        // The last write is still under way: the next time will do.
        let Ok(mut notes) = self.notes.try_lock() else {
            return;
        };
        let database = &self.database.name;
        let shown = self.board.pipelines_of(database);
        let sayings = shown
            .iter()
            .map(|status| (Arc::clone(&status.name), saying(status)));
        let due = notes.due(sayings.collect(), self.clock.now());
        if due.is_empty() {
            return;
        }
        let catalog = &self.database.catalog;
        match catalog
            .write_states(&self.node, &due.states, &due.gone)
            .await
        {
            Ok(taken) => notes.wrote(due, &taken, self.clock.now()),
            Err(error) => {
                tracing::debug!(%database, %error, "states of pipelines were not written; trying again");
            }
        }
    }
}

fn saying(status: &PipelineStatus) -> Saying {
    let reason = match &status.state {
        // In a moment there will be more to say.
        PipelineState::Starting => return Saying::Nothing,
        PipelineState::Standby { .. } => return Saying::Silence,
        PipelineState::Running | PipelineState::Stopped => None,
        PipelineState::Blocked { row_id, reason } => Some(format!("row {row_id}: {reason}")),
        PipelineState::Waiting { reason }
        | PipelineState::Failed { reason }
        | PipelineState::Paused { reason }
        | PipelineState::Invalid { reason } => Some(reason.clone()),
    };
    Saying::Note(StateNote {
        pipeline: Arc::clone(&status.name),
        epoch: status.epoch.map(Epoch),
        state: status.state.name(),
        reason,
    })
}
