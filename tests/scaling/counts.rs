//! What was counted, and for how long.

use std::ops::Sub;
use std::time::Duration;

/// Statements of a claim that is granted, of a pipeline that a database defines: see
/// `claiming_is_so_many_statements` in `tests/ownership/costs.rs`.
const OF_A_CLAIM: u64 = 12;

/// All that nodes did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) beats: u64,
    pub(crate) claims: u64,
    pub(crate) releases: u64,
    pub(crate) share_writes: u64,
    pub(crate) share_forgets: u64,
    pub(crate) share_rows_written: u64,
    pub(crate) share_rows_read: u64,
    pub(crate) bytes_asked: u64,
    pub(crate) bytes_answered: u64,
    pub(crate) node_rows: u64,
}

/// What was counted in some time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phase {
    pub(crate) counts: Counts,
    pub(crate) took: Duration,
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            beats: self.beats - before.beats,
            claims: self.claims - before.claims,
            releases: self.releases - before.releases,
            share_writes: self.share_writes - before.share_writes,
            share_forgets: self.share_forgets - before.share_forgets,
            share_rows_written: self.share_rows_written - before.share_rows_written,
            share_rows_read: self.share_rows_read - before.share_rows_read,
            bytes_asked: self.bytes_asked - before.bytes_asked,
            bytes_answered: self.bytes_answered - before.bytes_answered,
            node_rows: self.node_rows - before.node_rows,
        }
    }
}

impl Counts {
    /// Statements sent to the database.
    pub(crate) const fn statements(&self) -> u64 {
        self.beats
            + self.claims * OF_A_CLAIM
            + self.releases
            + self.share_writes
            + self.share_forgets
    }
}

impl Phase {
    pub(crate) fn rate(&self, count: u64) -> f64 {
        count as f64 / self.took.as_secs_f64()
    }

    pub(crate) fn print(&self, before: &str) {
        let counts = &self.counts;
        println!(
            "| {before} | {:.1} s | {:.0} | {:.0} | {} | {} | {} | {} | {} | {} | {:.0} | {:.2} | {:.2} |",
            self.took.as_secs_f64(),
            self.rate(counts.statements()),
            self.rate(counts.beats),
            counts.claims,
            counts.releases,
            counts.share_writes,
            counts.share_forgets,
            counts.share_rows_written,
            counts.share_rows_read,
            self.rate(counts.node_rows),
            self.rate(counts.bytes_asked) / f64::from(1 << 20),
            self.rate(counts.bytes_answered) / f64::from(1 << 20),
        );
    }
}
