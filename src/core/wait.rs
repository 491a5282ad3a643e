//! What an actor waits for, and whether it may.
//!
//! An actor that does nothing either waits for somebody who will wake it, or has
//! lost its wake-up. Each actor says about once a second which it is, from its own
//! state: it names the one who will wake it ([`Wait`]) and since when it has
//! waited, or finds that nobody will ([`Doing::Stalled`]). Of a reader that rests, since
//! there is nothing to do, others see it (`actors/rest.rs`).
//!
//! A wait is *protected*: however long PostgreSQL, AWS or permits take, the actor
//! is not stuck. A single call is protected for as long as its time-outs could
//! make it take at most ([`Patience`]); one that does not end by then has been
//! forgotten by somebody. Waits for another actor are protected while that actor
//! holds the proof that it knows of it (a ticket, a pledge).

use std::time::Duration;

use super::time::Moment;

/// A timer goes off this late at most, on a machine under load.
pub const TIMER_LATE: Duration = Duration::from_secs(2);

/// For whom, or what, an actor waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wait {
    /// For work: nothing that it knows of is to be done.
    Work,
    /// For the answer of a statement, or for the pause after one that failed.
    Database,
    /// For the answer of a call to the service, or for the pause after one that
    /// failed.
    Kinesis,
    /// For the shard's budget, or the pause after a call that was refused.
    Budget,
    /// For more rows to share a call with: those that are there are late anyway.
    Company,
    /// For permits, or the pipeline's rate limit.
    Permits,
    /// For the outcomes of rows that lie in a writer's queue.
    Outcomes,
    /// For the probe to see new rows.
    News,
    /// For a moment: to write the position down, to look again.
    Time,
    /// For its stream, which must not be written to.
    Stream,
    /// For the writer of a shard that is being started.
    Writer,
    /// For writers to give back what waits for shards that are gone.
    HandOver,
    /// For somebody to mend a row that cannot be sent; it looks again by itself.
    Person,
}

impl Wait {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Work,
        Self::Database,
        Self::Kinesis,
        Self::Budget,
        Self::Company,
        Self::Permits,
        Self::Outcomes,
        Self::News,
        Self::Time,
        Self::Stream,
        Self::Writer,
        Self::HandOver,
        Self::Person,
    ];

    /// Its name, as the status shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Database => "database",
            Self::Kinesis => "kinesis",
            Self::Budget => "budget",
            Self::Company => "company",
            Self::Permits => "permits",
            Self::Outcomes => "outcomes",
            Self::News => "news",
            Self::Time => "time",
            Self::Stream => "stream",
            Self::Writer => "writer",
            Self::HandOver => "hand_over",
            Self::Person => "person",
        }
    }
}

/// What an actor finds itself doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It waits, and will be woken.
    Waits(Wait),
    /// It waits, and nobody will wake it: why.
    Stalled(&'static str),
}

/// How long a single call to the outside can take at most, with everything that
/// its time-outs allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience(Duration);

impl Patience {
    /// For calls whose time-out is this: an act of an actor is a few of them, and
    /// may wait for a connection before each.
    #[must_use]
    pub const fn of_timeout(timeout: Duration) -> Self {
        Self(
            timeout
                .saturating_mul(4)
                .saturating_add(Duration::from_secs(60)),
        )
    }

    /// How long it is.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// A call that began at `since`: it is waited for, or was forgotten.
    #[must_use]
    pub fn judge(self, wait: Wait, since: Moment, now: Moment) -> Doing {
        if now.since(since) < self.0 {
            Doing::Waits(wait)
        } else {
            Doing::Stalled("a call has not ended long after its time-out")
        }
    }
}

/// A timer that was set for `due`: it is waited for, or did not go off.
#[must_use]
pub fn judge_timer(wait: Wait, due: Moment, now: Moment) -> Doing {
    if now.since(due) < TIMER_LATE {
        Doing::Waits(wait)
    } else {
        Doing::Stalled("a timer did not go off")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn names_differ() {
        let names: BTreeSet<&str> = Wait::ALL.iter().map(|wait| wait.name()).collect();
        assert_eq!(names.len(), Wait::ALL.len());
    }

    #[test]
    fn a_call_is_protected_for_as_long_as_its_time_outs_allow() {
        let patience = Patience::of_timeout(Duration::from_secs(30));
        let most = patience.duration().as_secs();
        assert_eq!(most, 180);
        let waits = Doing::Waits(Wait::Kinesis);
        assert_eq!(patience.judge(Wait::Kinesis, at(5), at(5)), waits);
        assert_eq!(patience.judge(Wait::Kinesis, at(5), at(4 + most)), waits);
        let later = patience.judge(Wait::Kinesis, at(5), at(5 + most));
        assert!(matches!(later, Doing::Stalled(_)));
    }

    #[test]
    fn a_timer_in_the_past_did_not_go_off() {
        let waits = Doing::Waits(Wait::Budget);
        assert_eq!(judge_timer(Wait::Budget, at(9), at(3)), waits);
        assert_eq!(judge_timer(Wait::Budget, at(9), at(10)), waits);
        assert!(matches!(
            judge_timer(Wait::Budget, at(9), at(11)),
            Doing::Stalled(_)
        ));
    }
}
