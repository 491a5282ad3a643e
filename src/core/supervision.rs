//! How a child is led through its life: when it is started again, when it counts
//! as failed, when as stuck.
//!
//! ```text
//!             starts             runs            drains             died
//!   stopped ---------> starting ------> running --------> draining ------> stopped
//!      ^                ^  ^ |            |                  |
//!      |         starts |  | | died       | died             | died
//!      |                |  | v            v                  v
//!      |                |  +-- backing off / failed <---------
//!      |   stops        |             |
//!      +----------------+-------------+
//! ```
//!
//! | state       | starts   | runs    | drains   | died                        | stops   | its timer |
//! |-------------|----------|---------|----------|-----------------------------|---------|-----------|
//! | stopped     | starting | -       | -        | -                           | stopped | none: it is not wanted |
//! | starting    | starting | running | -        | backing off, failed, stopped | stopped | by when it is asked for again |
//! | running     | -        | -       | draining | backing off, failed, stopped | -       | [`STUCK_AFTER`] since its last sign of life |
//! | draining    | -        | -       | draining | backing off, failed, stopped | -       | the end of its grace |
//! | backing off | starting | -       | -        | -                           | stopped | the end of its pause |
//! | failed      | starting | -       | -        | -                           | stopped | the end of its pause |
//!
//! What the table does not have is answered with [`IllegalStep`] and changes
//! nothing. A child runs in *running* and *draining* alone, so there are never two
//! incarnations of one.
//!
//! Rules:
//! - the pause before a restart doubles; it falls back only after a healthy
//!   period, never at a start: what dies at once must not be started in a loop;
//! - a child is *failed* after [`FAILED_AFTER`] deaths in a row before which it did
//!   nothing, or [`FAILED_AFTER_QUICK`] quick ones in a row whatever it did: it is
//!   reported so and tried again slowly, for ever;
//! - a child is *stuck* when it shows no sign of life for [`STUCK_AFTER`]: a
//!   blocked thread, or work that waits while nothing is under way (see
//!   [`super::wait`]). Waiting for PostgreSQL, AWS, permits or news is not being
//!   stuck;
//! - every state but *stopped* has a timer ([`Life::deadline`]): whatever message
//!   is lost, somebody looks again.

use std::fmt;
use std::time::Duration;

use super::backoff::Backoff;
use super::time::Moment;

/// First and longest pause before a child is started again.
pub const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(30));

/// A child that has run for so long is healthy: its failures are forgotten.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// Deaths in a row without any progress after which a child counts as failed.
pub const FAILED_AFTER: u32 = 5;

/// Deaths in a row, each before it was healthy, after which a child counts as
/// failed whatever it did: its pause has reached its longest by then.
pub const FAILED_AFTER_QUICK: u32 = 10;

/// The pause between attempts at a failed child.
pub const FAILED_PAUSE: Duration = Duration::from_secs(30);

/// The longest time without a sign of life.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Where a child is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChildState {
    /// It does not run and is not wanted.
    Stopped,
    /// It is wanted, and what it needs is being asked for.
    Starting,
    /// It runs.
    Running,
    /// It died and will be started again.
    BackingOff,
    /// It died too often; it is tried again slowly.
    Failed,
    /// It runs, and finishes what it has.
    Draining,
}

impl ChildState {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Stopped,
        Self::Starting,
        Self::Running,
        Self::BackingOff,
        Self::Failed,
        Self::Draining,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::BackingOff => "backing off",
            Self::Failed => "failed",
            Self::Draining => "draining",
        }
    }

    /// Whether there is an incarnation.
    #[must_use]
    pub const fn is_alive(self) -> bool {
        match self {
            Self::Running | Self::Draining => true,
            Self::Stopped | Self::Starting | Self::BackingOff | Self::Failed => false,
        }
    }
}

/// What is done with a child, or happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// It is wanted.
    Starts,
    /// There is an incarnation.
    Runs,
    /// It was asked to finish.
    Drains,
    /// Its incarnation ended, or could not be made.
    Died,
    /// It is wanted no more.
    Stops,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Starts,
        Self::Runs,
        Self::Drains,
        Self::Died,
        Self::Stops,
    ];

    /// Whether the table has it.
    #[must_use]
    pub const fn is_legal_in(self, state: ChildState) -> bool {
        use ChildState::{BackingOff, Draining, Failed, Running, Starting, Stopped};
        match self {
            Self::Starts => matches!(state, Stopped | Starting | BackingOff | Failed),
            Self::Runs => matches!(state, Starting),
            Self::Drains => matches!(state, Running | Draining),
            Self::Died => matches!(state, Starting | Running | Draining),
            Self::Stops => matches!(state, Stopped | Starting | BackingOff | Failed),
        }
    }
}

/// A step that a child's state does not allow: somebody believes something of it
/// that is not so. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IllegalStep {
    /// Where the child is.
    pub state: ChildState,
    /// What was to be done.
    pub step: Step,
}

impl fmt::Display for IllegalStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = match self.step {
            Step::Starts => "be started",
            Step::Runs => "begin to run",
            Step::Drains => "be drained",
            Step::Died => "die",
            Step::Stops => "be given up",
        };
        write!(f, "a child that is {} cannot {step}", self.state.name())
    }
}

impl std::error::Error for IllegalStep {}

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
    quick_deaths: u32,
    started_at: Moment,
    last_sign: (u64, Moment),
    /// Its timer, where it has one of its own.
    until: Moment,
}

impl Life {
    /// A child that has not been started.
    #[must_use]
    pub const fn new(now: Moment) -> Self {
        Self {
            state: ChildState::Stopped,
            backoff: Backoff::new(PAUSES.0, PAUSES.1),
            barren_deaths: 0,
            quick_deaths: 0,
            started_at: now,
            last_sign: (0, now),
            until: now,
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn state(&self) -> ChildState {
        self.state
    }

    /// Whether it died too often to be tried again at once: it stays so until it
    /// has shown that it can run.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.barren_deaths >= FAILED_AFTER || self.quick_deaths >= FAILED_AFTER_QUICK
    }

    /// How often in a row it ended before it was healthy.
    #[must_use]
    pub const fn quick_deaths(&self) -> u32 {
        self.quick_deaths
    }

    const fn check(&self, step: Step) -> Result<(), IllegalStep> {
        let state = self.state;
        if step.is_legal_in(state) {
            Ok(())
        } else {
            Err(IllegalStep { state, step })
        }
    }

    /// It is wanted: what it needs is asked for, and asked for again at `by`.
    pub fn starts(&mut self, by: Moment) -> Result<(), IllegalStep> {
        self.check(Step::Starts)?;
        self.state = ChildState::Starting;
        self.until = by;
        Ok(())
    }

    /// It runs from now on.
    pub fn runs(&mut self, now: Moment) -> Result<(), IllegalStep> {
        self.check(Step::Runs)?;
        self.state = ChildState::Running;
        self.started_at = now;
        self.last_sign = (0, now);
        Ok(())
    }

    /// It was asked to finish, by `until` at the latest. Asked again, the earlier
    /// end counts.
    pub fn drains(&mut self, until: Moment) -> Result<(), IllegalStep> {
        self.check(Step::Drains)?;
        let is_draining = self.state == ChildState::Draining;
        self.until = if is_draining {
            self.until.min(until)
        } else {
            until
        };
        self.state = ChildState::Draining;
        Ok(())
    }

    /// It ended; answers how long to wait before it is started again.
    pub fn died(
        &mut self,
        death: Death,
        now: Moment,
        random: f64,
    ) -> Result<Duration, IllegalStep> {
        self.check(Step::Died)?;
        if self.state.is_alive() && now.since(self.started_at) >= HEALTHY_AFTER {
            self.backoff.reset();
            self.barren_deaths = 0;
            self.quick_deaths = 0;
        }
        let (state, pause) = match death {
            Death::InOrder => (ChildState::Stopped, Duration::ZERO),
            Death::Innocent => (ChildState::BackingOff, jittered(PAUSES.0, random)),
            Death::Failure { progressed } => self.failed(progressed, random),
        };
        self.state = state;
        self.until = now + pause;
        Ok(pause)
    }

    fn failed(&mut self, progressed: bool, random: f64) -> (ChildState, Duration) {
        self.quick_deaths = self.quick_deaths.saturating_add(1);
        self.barren_deaths = if progressed {
            0
        } else {
            self.barren_deaths.saturating_add(1)
        };
        let pause = self.backoff.after_failure(random);
        if self.has_failed() {
            (
                ChildState::Failed,
                pause.max(jittered(FAILED_PAUSE, random)),
            )
        } else {
            (ChildState::BackingOff, pause)
        }
    }

    /// It is wanted no more, and does not run. Its failures are remembered, should
    /// it be wanted again.
    pub fn stops(&mut self) -> Result<(), IllegalStep> {
        self.check(Step::Stops)?;
        self.state = ChildState::Stopped;
        Ok(())
    }

    /// When something must have happened to it; `None` while it is not wanted.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        let stuck_at = self.last_sign.1 + STUCK_AFTER;
        match self.state {
            ChildState::Stopped => None,
            ChildState::Running => Some(stuck_at),
            ChildState::Draining => Some(stuck_at.min(self.until)),
            ChildState::Starting | ChildState::BackingOff | ChildState::Failed => Some(self.until),
        }
    }

    /// Whether it should have been started, or asked for, `late` ago: whoever was
    /// to do so has forgotten.
    #[must_use]
    pub fn is_forgotten(&self, late: Duration, now: Moment) -> bool {
        match self.state {
            ChildState::Starting | ChildState::BackingOff | ChildState::Failed => {
                now >= self.until + late
            }
            ChildState::Stopped | ChildState::Running | ChildState::Draining => false,
        }
    }

    /// How long the present incarnation has run; zero if there is none.
    #[must_use]
    pub fn runs_for(&self, now: Moment) -> Duration {
        if self.state.is_alive() {
            now.since(self.started_at)
        } else {
            Duration::ZERO
        }
    }

    /// Looks at the child's signs of life, a count that rises; answers whether it
    /// is stuck.
    pub fn is_stuck(&mut self, signs: u64, now: Moment) -> bool {
        if signs != self.last_sign.0 {
            self.last_sign = (signs, now);
        }
        self.state.is_alive() && now.since(self.last_sign.1) >= STUCK_AFTER
    }
}

fn jittered(pause: Duration, random: f64) -> Duration {
    pause.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests;
