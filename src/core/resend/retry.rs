//! When what could not be handed is looked at again.

use std::time::Duration;

use crate::core::time::Moment;

/// The pause after a look that was in vain.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause: a shard that is stuck for an hour must not cost the database
/// twenty reads a second.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Pauses that grow while nothing can be handed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Retry {
    at: Option<Moment>,
    in_vain: u32,
}

impl Retry {
    /// Nothing was looked at in vain.
    pub(super) const fn new() -> Self {
        Self {
            at: None,
            in_vain: 0,
        }
    }

    /// Until when nothing is looked at, if that lies ahead.
    pub(super) fn waits(self, now: Moment) -> Option<Moment> {
        self.at.filter(|at| *at > now)
    }

    /// So much of what was looked at was handed.
    pub(super) fn passed(&mut self, handed: usize, now: Moment) {
        if handed > 0 {
            *self = Self::default();
            return;
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.in_vain.min(10));
        self.at = Some(now + doubled.min(LONGEST_PAUSE));
        self.in_vain += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_something_is_handed() {
        let mut retry = Retry::default();
        let now = Moment::ORIGIN;
        let pauses = [50, 100, 200, 400, 800, 1600, 2000, 2000];
        for millis in pauses {
            retry.passed(0, now);
            let until = now + Duration::from_millis(millis);
            assert_eq!(retry.waits(now), Some(until));
            assert_eq!(retry.waits(until), None);
        }
        retry.passed(1, now);
        assert_eq!(retry.waits(now), None);
        retry.passed(0, now);
        assert_eq!(retry.waits(now), Some(now + FIRST_PAUSE));
    }
}
