//! The signs of life of one actor.
//!
//! An actor beats about once a second, from its own timer, unless it finds itself
//! with work that waits while nothing is under way. So a count that stands still
//! means a blocked thread or a lost wake-up; waiting for PostgreSQL, AWS, permits
//! or news does not stop it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[derive(Debug, Default)]
struct Signs {
    beats: AtomicU64,
    progressed: AtomicBool,
}

/// Shared by an actor and the supervisor.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<Signs>);

impl Pulse {
    /// A sign of life.
    pub fn beat(&self) {
        self.0.beats.fetch_add(1, Ordering::Relaxed);
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
}
