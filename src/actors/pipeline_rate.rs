//! A pipeline's own rate, kept while its readers come and go.
//!
//! A reader that is started again on this node goes on with what the one before it left
//! in the bucket: a pipeline that is restarted every moment is granted no burst each
//! time, and loses nothing of its rate either. A pipeline that was another node's
//! meanwhile may have used its burst there, so it begins with nothing saved. Only one
//! that has never delivered anything begins with a full bucket.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::core::ports::Epoch;
use crate::core::rate_limit::{RateLimiter, RateLimits};
use crate::core::time::Moment;

/// The bucket of one pipeline; its reader and its supervisor share it.
#[derive(Debug, Clone)]
pub struct PipelineRate {
    limiter: Arc<Mutex<RateLimiter>>,
    epoch: Epoch,
}

impl PipelineRate {
    /// What a reader under an epoch may hand over. `before` is what the last one on this
    /// node had; `has_begun` says whether the pipeline has delivered anything.
    #[must_use]
    pub fn begin(
        before: Option<&Self>,
        epoch: Epoch,
        has_begun: bool,
        limits: RateLimits,
        now: Moment,
    ) -> Self {
        // The database counts who takes it over: nobody has in between.
        let before = before.filter(|before| before.epoch.0 + 1 == epoch.0);
        let limiter = match before {
            Some(before) => {
                let mut limiter = before.limiter().clone();
                limiter.change(limits, now);
                limiter
            }
            None if has_begun => {
                // A limit that was not there begins without anything saved.
                let mut limiter = RateLimiter::new(RateLimits::default(), now);
                limiter.change(limits, now);
                limiter
            }
            None => RateLimiter::new(limits, now),
        };
        Self {
            limiter: Arc::new(Mutex::new(limiter)),
            epoch,
        }
    }

    /// From now on these limits hold.
    pub fn change(&self, limits: RateLimits, now: Moment) {
        self.limiter().change(limits, now);
    }

    /// How many rows of so many bytes may go now.
    #[must_use]
    pub fn rows(&self, row_bytes: usize, now: Moment) -> usize {
        self.limiter().rows(row_bytes, now)
    }

    /// When a row may go, if none may now.
    #[must_use]
    pub fn next_at(&self, now: Moment) -> Moment {
        self.limiter().next_at(now)
    }

    /// Rows have gone.
    pub fn charge(&self, rows: usize, bytes: usize) {
        self.limiter().charge(rows, bytes);
    }

    // A panic while it was locked leaves plain numbers.
    fn limiter(&self) -> MutexGuard<'_, RateLimiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: RateLimits = RateLimits {
        rows_per_second: Some(100.0),
        burst_rows: Some(50),
        bytes_per_second: None,
    };

    fn at(millis: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(millis))
    }

    /// All that may go now.
    fn send(rate: &PipelineRate, now: Moment) -> usize {
        let rows = rate.rows(100, now);
        rate.charge(rows, rows * 100);
        rows
    }

    #[test]
    fn readers_that_come_and_go_get_one_burst_together() {
        let mut rate = PipelineRate::begin(None, Epoch(1), false, LIMITS, at(0));
        let mut sent = send(&rate, at(0));
        assert_eq!(sent, 50);
        for restart in 1..=100 {
            let epoch = Epoch(1 + restart);
            let now = at(100 * restart.unsigned_abs());
            rate = PipelineRate::begin(Some(&rate), epoch, true, LIMITS, now);
            sent += send(&rate, now);
        }
        // 10 s of the rate.
        assert_eq!(sent, 50 + 1_000);
    }

    #[test]
    fn what_was_another_nodes_begins_with_nothing_saved() {
        let here = PipelineRate::begin(None, Epoch(1), false, LIMITS, at(0));
        let back = PipelineRate::begin(Some(&here), Epoch(3), true, LIMITS, at(60_000));
        assert_eq!(back.rows(100, at(60_000)), 0);
        assert_eq!(back.rows(100, at(60_100)), 10);
        let elsewhere = PipelineRate::begin(None, Epoch(2), true, LIMITS, at(60_000));
        assert_eq!(elsewhere.rows(100, at(60_000)), 0);
    }

    #[test]
    fn without_limits_anything_goes_at_once() {
        let rate = PipelineRate::begin(None, Epoch(2), true, RateLimits::default(), at(0));
        assert_eq!(rate.rows(100, at(0)), usize::MAX);
    }
}
