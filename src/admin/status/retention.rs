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
}
