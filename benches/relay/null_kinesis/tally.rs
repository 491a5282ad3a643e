//! What a null Kinesis counts.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// All it has counted since it was reset.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// PutRecords calls.
    pub(crate) calls: u64,
    /// Records stored.
    pub(crate) records: u64,
    /// Bytes stored, data and partition keys.
    pub(crate) bytes: u64,
    /// Records turned away by the limit of a shard.
    pub(crate) throttled: u64,
    /// Records that failed by chance.
    pub(crate) failed: u64,
    /// From the first call's arrival to the last answer, in seconds.
    pub(crate) seconds: f64,
    /// The counts over time, ten times a second.
    pub(crate) series: Vec<Moment>,
    /// How long each row took from before its publishing to its acknowledgement, in
    /// microseconds, sorted.
    pub(crate) latencies: Vec<u64>,
}

/// The counts at one time.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Moment {
    /// Seconds since the first call.
    pub(crate) at: f64,
    /// Records stored by then.
    pub(crate) records: u64,
    /// Bytes stored by then.
    pub(crate) bytes: u64,
    /// Records throttled by then.
    pub(crate) throttled: u64,
}

/// Counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    first: Option<Instant>,
    last: Option<Instant>,
    pub(super) calls: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) throttled: u64,
    pub(super) failed: u64,
    series: Vec<Moment>,
    latencies: Vec<u64>,
}

// === impl Tally ===

impl Tally {
    /// A call has come in.
    pub(super) fn called(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        self.calls += 1;
    }

    /// A call is answered.
    pub(super) fn answered(&mut self, published: &[u64]) {
        self.last = Some(Instant::now());
        if published.is_empty() {
            return;
        }
        let now = micros_since_epoch();
        self.latencies
            .extend(published.iter().map(|at| now.saturating_sub(*at)));
    }

    /// Notes the counts as they are.
    pub(super) fn sample(&mut self) {
        let Some(first) = self.first else { return };
        self.series.push(Moment {
            at: first.elapsed().as_secs_f64(),
            records: self.records,
            bytes: self.bytes,
            throttled: self.throttled,
        });
    }

    pub(super) fn counts(&self) -> Counts {
        let mut latencies = self.latencies.clone();
        latencies.sort_unstable();
        let seconds = match (self.first, self.last) {
            (Some(first), Some(last)) => last.duration_since(first).as_secs_f64(),
            _ => 0.0,
        };
        Counts {
            calls: self.calls,
            records: self.records,
            bytes: self.bytes,
            throttled: self.throttled,
            failed: self.failed,
            seconds,
            series: self.series.clone(),
            latencies,
        }
    }
}

/// What a publisher writes into `"at"`.
pub(crate) fn micros_since_epoch() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}

// === impl Counts ===

impl Counts {
    /// The latency that a part of all rows stay under, in milliseconds; nothing when
    /// none was measured.
    pub(crate) fn latency_ms(&self, part: f64) -> Option<f64> {
        let last = self.latencies.len().checked_sub(1)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index of a list that is in memory"
        )]
        let index = ((last as f64) * part).round() as usize;
        #[expect(clippy::cast_precision_loss, reason = "less than centuries")]
        self.latencies
            .get(index)
            .map(|micros| *micros as f64 / 1000.0)
    }
}
