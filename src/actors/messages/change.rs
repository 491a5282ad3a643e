//! Messages of a reload: the whole of it, and what is changed in a running actor.

use std::sync::Arc;
use std::time::Duration;

use actix::Message;
use tokio::sync::oneshot;

use crate::actors::supervisor::Database;
use crate::config::settings::{RetentionSettings, Settings};
use crate::core::rate_limit::RateLimits;
use crate::core::retention::FileReader;

/// These settings hold from now on. From the signal handler, which has found that
/// a running relay can take them; two reloads are carried out one after the other.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reload {
    /// All settings.
    pub settings: Arc<Settings>,
    /// Connections to the databases that are new, or used in another way.
    pub databases: Vec<Database>,
    /// Told when they hold. Dropped by a supervisor that drains: nothing changes any
    /// more.
    pub applied: oneshot::Sender<()>,
}

/// Work with these numbers from now on; all else stays. Supervisor to reader.
#[derive(Debug, Clone, Copy, PartialEq, Message)]
#[rtype(result = "()")]
pub struct Retune {
    /// The tenant's weight among the tenants of a shard.
    pub tenant_weight: u32,
    /// The pipeline's weight among those of its tenant.
    pub weight: u32,
    /// The most of its records in one call.
    pub batch_size: usize,
    /// Its own rate.
    pub rate: RateLimits,
    /// Rows in flight, at most.
    pub most_rows: usize,
    /// Bytes in flight, at most.
    pub most_bytes: usize,
    /// Rows remembered by id alone, at most.
    pub most_stashed: usize,
}

/// Look for news this often from now on. Supervisor to probe.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct ProbeAtPace {
    /// The pause while there are news.
    pub least_pause: Duration,
    /// The longest pause while there are none.
    pub most_pause: Duration,
}

/// Go about it this way from now on, for these pipelines of the file. Supervisor
/// to retention.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct SweepBy {
    /// How.
    pub settings: RetentionSettings,
    /// The pipelines of the file that read from this database.
    pub of_file: Arc<[FileReader]>,
}

/// Examine the stream this often from now on, and once now. Supervisor to router.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct RefreshEvery {
    /// The pause between two examinations of a stream that is well.
    pub refresh: Duration,
}
