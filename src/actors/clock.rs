//! The clock of the actors: tokio's, so that a paused runtime drives everything.

use tokio::time::Instant;

use crate::core::time::Moment;

/// A clock whose origin is the moment it was made.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    /// The moment it is now.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment::from_origin(self.origin.elapsed())
    }
}
