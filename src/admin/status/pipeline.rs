//! A pipeline on the board.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::core::position::RowId;
use crate::core::wait::Doing;

/// Which pipeline it is: its database and its name.
pub type PipelineId = (Arc<str>, Arc<str>);

/// What a pipeline is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PipelineState {
    /// It is being set up.
    Starting,
    /// Another node owns it.
    Standby {
        /// That node.
        owner: String,
    },
    /// Rows flow, or would if there were any.
    Running,
    /// Something it needs is not there; it tries again by itself.
    Waiting {
        /// What it waits for.
        reason: String,
    },
    /// A row that can never be sent holds it; somebody must act.
    Blocked {
        /// The row.
        row_id: RowId,
        /// Why it cannot be sent.
        reason: String,
    },
    /// It ended too often; it is tried again slowly.
    Failed {
        /// How it ended last.
        reason: String,
    },
    /// It was stopped on purpose.
    Stopped,
    /// An operator holds it, until he resumes it.
    Paused {
        /// Which pauses hold it, and why.
        reason: String,
    },
    /// Its definition is not acceptable; somebody must act.
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
}

/// A pipeline on the board.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PipelineStatus {
    /// Its name.
    pub name: Arc<str>,
    /// The database it reads from.
    pub database: Arc<str>,
    /// The outbox it reads.
    pub outbox: Arc<str>,
    /// The name of the stream it writes to; empty where its definition cannot be read.
    pub stream: Arc<str>,
    /// Which of the streams of that name: see [`StreamStatus::key`](super::StreamStatus).
    pub stream_key: Arc<str>,
    /// Whom it belongs to; empty where its definition cannot be read.
    pub tenant: Arc<str>,
    /// What it is doing.
    #[serde(flatten)]
    pub state: PipelineState,
    /// It was deleted or disabled, and finishes what it has read; then it is gone.
    pub leaving: bool,
    /// The epoch under which this node owns it, if it does.
    pub epoch: Option<i64>,
    /// Rows committed and not settled.
    pub lag_rows: u64,
    /// Whether there are more of them than were counted.
    pub lag_at_least: bool,
    /// Age of the oldest of them, in seconds.
    pub lag_oldest_seconds: f64,
    /// Rows read and not settled.
    pub in_flight_rows: u64,
    /// Bytes of the rows read and not settled.
    pub in_flight_bytes: u64,
    /// Windows begun and not settled.
    pub open_windows: u64,
    /// Rows of full shards that are remembered by id alone.
    pub deferred_rows: u64,
    /// Rows confirmed since this process took the pipeline.
    pub delivered_rows: u64,
    /// Rows that became dead letters since then.
    pub parked_rows: u64,
    /// Dead letters that wait for a person, counted up to 10,000.
    pub dead_letters_open: u64,
    /// Keys that wait behind a dead letter (`on_poison = block_key`).
    pub blocked_keys: u64,
    /// The rows that are sent again now, if any are.
    pub replay: Option<ReplayStatus>,
    /// What its reader waits for, while there is one.
    pub waits: Option<WaitStatus>,
    /// Since when its reader has said no more, while it rests: it waits on.
    #[serde(skip)]
    rests_since: Option<Instant>,
}

/// What an actor waits for, as it said about a second ago.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WaitStatus {
    /// For what, see [`crate::core::wait::Wait::name`]; `nobody` when it has found that no one will
    /// wake it: it is replaced soon.
    pub waits_for: &'static str,
    /// How long it has, in seconds.
    pub seconds: f64,
    /// What it has found, if no one will wake it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stalled: Option<&'static str>,
}

impl WaitStatus {
    /// What was said, and for how long.
    #[must_use]
    pub const fn of((doing, lasts): (Doing, Duration)) -> Self {
        let (waits_for, stalled) = match doing {
            Doing::Waits(wait) => (wait.name(), None),
            Doing::Stalled(why) => ("nobody", Some(why)),
        };
        Self {
            waits_for,
            seconds: lasts.as_secs_f64(),
            stalled,
        }
    }
}

/// A replay on the board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplayStatus {
    /// Its id.
    pub replay: i64,
    /// The first row that was asked for.
    pub from_id: RowId,
    /// The last one.
    pub to_id: RowId,
    /// Every row of the range below this is confirmed, or cannot be sent.
    pub next_id: RowId,
    /// `running`, or `waiting` while the live flow is behind.
    pub state: &'static str,
}

// === impl PipelineState ===

impl PipelineState {
    /// The names of all states.
    pub const NAMES: [&'static str; 9] = [
        "starting", "standby", "running", "waiting", "blocked", "failed", "stopped", "paused",
        "invalid",
    ];

    /// Its name, as the status and the metrics show it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Standby { .. } => "standby",
            Self::Running => "running",
            Self::Waiting { .. } => "waiting",
            Self::Blocked { .. } => "blocked",
            Self::Failed { .. } => "failed",
            Self::Stopped => "stopped",
            Self::Paused { .. } => "paused",
            Self::Invalid { .. } => "invalid",
        }
    }

    /// Whether what a reader of this node has counted is still to be shown when the
    /// pipeline is in this state and none runs. Another node may count meanwhile, or a
    /// person may see to the dead letters of a paused pipeline, and nobody here would
    /// hear of it. What starts or is tried again counts anew in a moment.
    #[must_use]
    pub const fn keeps_counts(&self) -> bool {
        match self {
            Self::Standby { .. }
            | Self::Waiting { .. }
            | Self::Stopped
            | Self::Paused { .. }
            | Self::Invalid { .. } => false,
            Self::Starting | Self::Running | Self::Blocked { .. } | Self::Failed { .. } => true,
        }
    }
}

// === impl PipelineStatus ===

impl PipelineStatus {
    /// A pipeline of which nothing is known but its definition, to the only stream of
    /// that name.
    #[must_use]
    pub fn starting(
        name: Arc<str>,
        database: Arc<str>,
        outbox: Arc<str>,
        stream: Arc<str>,
        tenant: Arc<str>,
    ) -> Self {
        Self {
            name,
            database,
            outbox,
            stream_key: Arc::clone(&stream),
            stream,
            tenant,
            state: PipelineState::Starting,
            leaving: false,
            epoch: None,
            lag_rows: 0,
            lag_at_least: false,
            lag_oldest_seconds: 0.0,
            in_flight_rows: 0,
            in_flight_bytes: 0,
            open_windows: 0,
            deferred_rows: 0,
            delivered_rows: 0,
            parked_rows: 0,
            dead_letters_open: 0,
            blocked_keys: 0,
            replay: None,
            waits: None,
            rests_since: None,
        }
    }

    /// Its reader waits for this, and says no more of it while it rests.
    pub fn shows_wait(&mut self, waits: Option<WaitStatus>, rests: bool) {
        self.waits = waits;
        self.rests_since = rests.then(Instant::now);
    }

    /// What is shown of it now.
    pub(super) fn now(&self) -> Self {
        let mut status = self.clone();
        if let Some((waits, since)) = status.waits.as_mut().zip(self.rests_since) {
            waits.seconds += since.elapsed().as_secs_f64();
        }
        status
    }

    /// What waits is not known here any more.
    pub const fn forget_counts(&mut self) {
        self.lag_rows = 0;
        self.lag_at_least = false;
        self.lag_oldest_seconds = 0.0;
        self.dead_letters_open = 0;
        self.blocked_keys = 0;
        self.replay = None;
    }
}
