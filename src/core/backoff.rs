//! How long to wait before the next try.
//!
//! The delay doubles from a first value up to a ceiling; half of it is random,
//! so that nodes which failed together do not come back together. Only the
//! caller knows when things are healthy again and resets it.

use std::time::Duration;

/// A row of rising delays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    ceiling: Duration,
    failures: u32,
}

impl Backoff {
    /// Delays from `first`, doubling, up to `ceiling`.
    #[must_use]
    pub const fn new(first: Duration, ceiling: Duration) -> Self {
        Self {
            first,
            ceiling,
            failures: 0,
        }
    }

    /// Failures since the last reset.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failure and answers how long to wait: between half and all of
    /// the current step, as `random` (0 to 1) decides.
    pub fn after_failure(&mut self, random: f64) -> Duration {
        let doublings = self.failures.min(30);
        let step = self.first.saturating_mul(1 << doublings).min(self.ceiling);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// Forgets the failures.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_ceiling_and_resets() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let longest: Vec<u128> = (0..6)
            .map(|_| backoff.after_failure(1.0).as_millis())
            .collect();
        assert_eq!(longest, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.failures(), 6);
        backoff.reset();
        assert_eq!(backoff.after_failure(0.0), Duration::from_millis(50));
    }

    #[test]
    fn never_overflows() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        for _ in 0..100 {
            assert!(backoff.after_failure(1.0) <= Duration::from_secs(30));
        }
    }
}
