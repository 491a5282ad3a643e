//! When the relay is killed.

use std::time::Duration;

/// At least so many times, however short the demo is.
const FEWEST: usize = 3;

/// Otherwise once in so many seconds.
const ONCE_IN: u32 = 5;

/// How often a demo of so many seconds kills the relay.
pub(super) fn kills(seconds: u32) -> usize {
    usize::try_from(seconds / ONCE_IN)
        .unwrap_or(usize::MAX)
        .max(FEWEST)
}

/// The moments to come, counted from the start of publishing.
#[derive(Debug)]
pub(super) struct Kills {
    /// Falling, so that the next one is the last.
    moments: Vec<Duration>,
}

impl Kills {
    /// Draws so many moments.
    pub(super) fn draw(seed: u64, count: usize, seconds: u32) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let span = Duration::from_secs(seconds.into());
        let mut moments: Vec<Duration> = (0..count).map(|_| span.mul_f64(random.f64())).collect();
        moments.sort_unstable();
        moments.reverse();
        Self { moments }
    }

    /// Whether a moment has come; it is used up then.
    pub(super) fn is_due(&mut self, elapsed: Duration) -> bool {
        let is_due = self.moments.last().is_some_and(|moment| *moment <= elapsed);
        if is_due {
            self.moments.pop();
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kill_comes_once_and_in_time() {
        for seconds in [1, 10, 30, 60] {
            let count = kills(seconds);
            assert!(count >= 3);
            let mut kills = Kills::draw(7, count, seconds);
            assert!(!kills.is_due(Duration::ZERO));
            let end = Duration::from_secs(seconds.into());
            let due = (0..100).filter(|_| kills.is_due(end)).count();
            assert_eq!(due, count);
        }
    }
}
