//! The signs of life of one actor.
//!
//! An actor looks at itself about once a second, from its own timer, and says what
//! it is doing. It gives a sign of life unless it finds itself with work that waits
//! while nothing is under way, or with a wait that nobody will end. So a count that
//! stands still means a blocked thread or a lost wake-up; waiting for PostgreSQL,
//! AWS, permits or news does not stop it. For a reader that rests others give it
//! (`rest.rs`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::rest::Rest;
use crate::core::time::Moment;
use crate::core::wait::{Doing, Patience, Wait};

#[derive(Debug)]
struct Signs {
    beats: AtomicU64,
    progressed: AtomicBool,
    /// What it said last, and since when it has said the same.
    doing: Mutex<Option<(Doing, Moment)>>,
    /// Who vouches for it while it rests.
    rest: Mutex<Option<Rest>>,
    patience: Patience,
}

/// Shared by an actor and the supervisor.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<Signs>);

impl Pulse {
    /// The pulse of an actor whose calls take so long at most.
    #[must_use]
    pub fn new(patience: Patience) -> Self {
        Self(Arc::new(Signs {
            beats: AtomicU64::new(0),
            progressed: AtomicBool::new(false),
            doing: Mutex::default(),
            rest: Mutex::default(),
            patience,
        }))
    }

    /// The actor has looked at itself: a sign of life, unless it is stalled.
    /// Answers what it waits for, and how long it has.
    pub fn says(&self, doing: Doing, now: Moment) -> (Doing, Duration) {
        match doing {
            Doing::Waits(_) => {
                self.0.beats.fetch_add(1, Ordering::Relaxed);
            }
            Doing::Stalled(_) => {}
        }
        let mut said = self.0.doing.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match *said {
            Some((before, since)) if before == doing => since,
            Some(_) | None => now,
        };
        *said = Some((doing, since));
        (doing, now.since(since))
    }

    /// The actor looks at itself no more until it stirs.
    pub fn rests(&self, rest: Rest) {
        *self.rest() = Some(rest);
    }

    /// The actor looks at itself again.
    pub fn stirs(&self) {
        *self.rest() = None;
    }

    /// A sign of life of an actor that rests, from those who vouch for it. Answers
    /// whether it has to look at itself, since they do not.
    #[must_use]
    pub fn must_look(&self, now: Moment) -> bool {
        let holds = self.rest().as_ref().map(|rest| rest.holds(now));
        if holds == Some(true) {
            self.0.beats.fetch_add(1, Ordering::Relaxed);
        }
        holds == Some(false)
    }

    /// Something was done that the actor is there for.
    pub fn progress(&self) {
        self.0.progressed.store(true, Ordering::Relaxed);
    }

    /// The signs of life so far.
    #[must_use]
    pub fn signs(&self) -> u64 {
        self.0.beats.load(Ordering::Relaxed)
    }

    /// Whether anything was done.
    #[must_use]
    pub fn has_progressed(&self) -> bool {
        self.0.progressed.load(Ordering::Relaxed)
    }

    /// How long a call of the actor's may take.
    #[must_use]
    pub fn patience(&self) -> Patience {
        self.0.patience
    }

    /// What the actor said last.
    #[must_use]
    pub fn doing(&self) -> Option<Doing> {
        self.said().map(|(doing, _)| doing)
    }

    /// How long the actor has waited for just this, as far as it has said so.
    #[must_use]
    pub fn waits_for(&self, wait: Wait, now: Moment) -> Option<Duration> {
        let (doing, since) = self.said()?;
        (doing == Doing::Waits(wait)).then(|| now.since(since))
    }

    // A panic while it was locked leaves it as it was.
    fn rest(&self) -> MutexGuard<'_, Option<Rest>> {
        self.0.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn said(&self) -> Option<(Doing, Moment)> {
        *self.0.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
