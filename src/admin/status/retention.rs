//! Retention on the board: what each database's outboxes keep, and who holds it.

use std::sync::Arc;

use serde::Serialize;

use super::StatusBoard;

/// Retention in a database, as this node knows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RetentionStatus {
    /// The database.
    pub database: Arc<str>,
    /// Whether this node sweeps it; else another one does.
    pub sweeps: bool,
    /// Why it cannot be swept, if it cannot.
    pub problem: Option<String>,
    /// Its outboxes, by name; none unless this node sweeps it.
    pub outboxes: Vec<KeptStatus>,
}

/// What an outbox keeps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeptStatus {
    /// The outbox.
    pub outbox: Arc<str>,
    /// How long it keeps rows, in hours; null: for ever.
    pub retention_hours: Option<u64>,
    /// The age of its oldest row, in seconds; null when it is empty.
    pub oldest_row_seconds: Option<f64>,
    /// The pipelines that hold rows which have outlived that.
    pub held_by: Vec<HoldStatus>,
    /// How far the deleting of its old rows has come; null unless it takes more than a
    /// batch.
    pub sweep: Option<SweepStatus>,
}

/// The deleting of an outbox's old rows, under way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SweepStatus {
    /// How many rows it has deleted.
    pub deleted_rows: u64,
    /// How long it has been under way, in seconds.
    pub seconds: f64,
    /// The part of its way behind it, from 0 to 1: from the oldest row when it began to
    /// the first that must stay, in time, as of the last look.
    pub part: f64,
    /// How long it still takes, in seconds, if it goes on as fast as until the last
    /// look; null before it was seen to move.
    pub left_seconds: Option<f64>,
}

/// A pipeline that holds rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HoldStatus {
    /// The pipeline.
    pub pipeline: Arc<str>,
    /// Whether it is disabled in the database.
    pub disabled: bool,
    /// For how long the oldest row it has not settled has outlived the retention,
    /// in seconds.
    pub held_seconds: f64,
}

impl StatusBoard {
    /// What a look at a database gave.
    pub fn set_retention(&self, status: RetentionStatus) {
        let database = Arc::clone(&status.database);
        self.write().retention.insert(database, status);
    }

    /// A batch was deleted of an outbox that is on the board.
    pub fn set_sweep(&self, database: &str, outbox: &str, sweep: Option<SweepStatus>) {
        let mut entries = self.write();
        let of_database = entries.retention.get_mut(database);
        let outboxes = of_database.into_iter().flat_map(|one| &mut one.outboxes);
        for kept in outboxes.filter(|kept| *kept.outbox == *outbox) {
            kept.sweep = sweep;
        }
    }
}
