//! How a child is led through its life: when it is started again, when it counts
//! as failed, when as stuck.
//!
//! ```text
//! stopped -> starting -> running -> backing off -> starting ...
//!                           |            \-> failed (tried again slowly) -> starting ...
//!                           \-> draining -> stopped
//! ```
//!
//! Rules:
//! - the pause before a restart doubles; it falls back only after a healthy
//!   period, never at a start: what dies at once must not be started in a loop;
//! - a child that died [`FAILED_AFTER`] times in a row without having done
//!   anything is *failed*: it is reported so and tried again slowly, for ever;
//! - a child is *stuck* when it shows no sign of life for [`STUCK_AFTER`]: a
//!   blocked thread, or work that waits while nothing is under way. Waiting for
//!   PostgreSQL, AWS, permits or news is not being stuck: such waits end by
//!   time-outs of their own.

use std::time::Duration;

use super::backoff::Backoff;
use super::time::Moment;

/// First and longest pause before a child is started again.
pub const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(30));

/// A child that has run for so long is healthy: its failures are forgotten.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// Deaths in a row without any progress after which a child counts as failed.
pub const FAILED_AFTER: u32 = 5;

/// The pause between attempts at a failed child.
pub const FAILED_PAUSE: Duration = Duration::from_secs(30);

/// The longest time without a sign of life.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Where a child is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildState {
    /// It does not run and is not wanted.
    Stopped,
    /// It is about to run.
    Starting,
    /// It runs.
    Running,
    /// It died and will be started again.
    BackingOff,
    /// It died too often without doing anything; it is tried again slowly.
    Failed,
    /// It finishes what it has.
    Draining,
}

/// How a child's life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It ended as it should: nothing is held against it.
    InOrder,
    /// Another actor took its work along; that one backs off.
    Innocent,
    /// It failed by itself.
    Failure {
        /// Whether it had done anything before.
        progressed: bool,
    },
}

/// The life of one child.
#[derive(Debug, Clone)]
pub struct Life {
    state: ChildState,
    backoff: Backoff,
    barren_deaths: u32,
    started_at: Moment,
    last_sign: (u64, Moment),
}

impl Life {
    /// A child that has not been started.
    #[must_use]
    pub const fn new(now: Moment) -> Self {
        Self {
            state: ChildState::Stopped,
            backoff: Backoff::new(PAUSES.0, PAUSES.1),
            barren_deaths: 0,
            started_at: now,
            last_sign: (0, now),
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn state(&self) -> ChildState {
        self.state
    }

    /// It is about to be started.
    pub const fn starts(&mut self) {
        self.state = ChildState::Starting;
    }

    /// It runs from now on.
    pub const fn runs(&mut self, now: Moment) {
        self.state = ChildState::Running;
        self.started_at = now;
        self.last_sign = (0, now);
    }

    /// It was asked to finish.
    pub const fn drains(&mut self) {
        self.state = ChildState::Draining;
    }

    /// It ended; answers how long to wait before it is started again.
    pub fn died(&mut self, death: Death, now: Moment, random: f64) -> Duration {
        if now.since(self.started_at) >= HEALTHY_AFTER {
            self.backoff.reset();
            self.barren_deaths = 0;
        }
        match death {
            Death::InOrder => {
                self.state = ChildState::Stopped;
                Duration::ZERO
            }
            Death::Innocent => {
                self.state = ChildState::BackingOff;
                PAUSES.0.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
            }
            Death::Failure { progressed } => {
                self.barren_deaths = if progressed {
                    0
                } else {
                    self.barren_deaths + 1
                };
                let pause = self.backoff.after_failure(random);
                if self.barren_deaths < FAILED_AFTER {
                    self.state = ChildState::BackingOff;
                    return pause;
                }
                self.state = ChildState::Failed;
                pause.max(FAILED_PAUSE.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0))
            }
        }
    }

    /// Looks at the child's signs of life, a count that rises; answers whether it
    /// is stuck.
    pub fn is_stuck(&mut self, signs: u64, now: Moment) -> bool {
        if signs != self.last_sign.0 {
            self.last_sign = (signs, now);
        }
        let silent = now.since(self.last_sign.1);
        match self.state {
            ChildState::Running | ChildState::Draining => silent >= STUCK_AFTER,
            ChildState::Stopped
            | ChildState::Starting
            | ChildState::BackingOff
            | ChildState::Failed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARREN: Death = Death::Failure { progressed: false };
    const AFTER_WORK: Death = Death::Failure { progressed: true };

    fn at(seconds: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(seconds))
    }

    #[track_caller]
    fn dies(life: &mut Life, death: Death, now: u64, state: ChildState) -> Duration {
        life.starts();
        life.runs(at(now));
        let pause = life.died(death, at(now + 1), 1.0);
        assert_eq!(life.state(), state);
        pause
    }

    #[test]
    fn pauses_double_and_what_does_nothing_fails() {
        let mut life = Life::new(at(0));
        for (death, millis) in [50, 100, 200, 400].into_iter().enumerate() {
            let pause = dies(&mut life, BARREN, death as u64, ChildState::BackingOff);
            assert_eq!(pause, Duration::from_millis(millis));
        }
        assert_eq!(dies(&mut life, BARREN, 5, ChildState::Failed), FAILED_PAUSE);
        assert_eq!(
            dies(&mut life, BARREN, 40, ChildState::Failed),
            FAILED_PAUSE
        );
        dies(&mut life, AFTER_WORK, 80, ChildState::BackingOff);
    }

    #[test]
    fn only_a_healthy_period_forgets() {
        let mut life = Life::new(at(0));
        dies(&mut life, AFTER_WORK, 0, ChildState::BackingOff);
        let second = dies(&mut life, AFTER_WORK, 10, ChildState::BackingOff);
        assert_eq!(second, Duration::from_millis(100), "a start is not health");
        life.runs(at(20));
        let third = life.died(AFTER_WORK, at(20) + HEALTHY_AFTER, 1.0);
        assert_eq!(third, PAUSES.0);
    }

    #[test]
    fn the_innocent_and_the_orderly_lose_nothing() {
        let mut life = Life::new(at(0));
        for _ in 0..100 {
            let pause = dies(&mut life, Death::Innocent, 0, ChildState::BackingOff);
            assert_eq!(pause, PAUSES.0);
        }
        assert_eq!(
            dies(&mut life, Death::InOrder, 0, ChildState::Stopped),
            Duration::ZERO
        );
        assert_eq!(
            dies(&mut life, AFTER_WORK, 0, ChildState::BackingOff),
            PAUSES.0
        );
    }

    #[test]
    fn silence_is_being_stuck_only_while_it_should_run() {
        let mut life = Life::new(at(0));
        assert!(!life.is_stuck(0, at(100)));
        life.runs(at(100));
        assert!(!life.is_stuck(1, at(105)));
        assert!(!life.is_stuck(1, at(114)));
        assert!(life.is_stuck(1, at(115)));
        assert!(!life.is_stuck(2, at(116)), "a sign of life");
        life.drains();
        assert!(life.is_stuck(2, at(126)));
    }
}
