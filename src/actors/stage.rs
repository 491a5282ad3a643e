//! Where the data actors run: on a thread of their own.
//!
//! The supervisor is not on it. An actor that blocks its thread silences all
//! actors on it; the supervisor sees that and puts them on a new thread. What
//! takes time (reading, sending) runs on the worker threads of the runtime in any
//! case.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Arbiter, ArbiterHandle};
use tokio::runtime::Handle;

enum Place {
    /// On the thread of whoever asks: in tests with a paused clock.
    Here,
    /// On a thread of their own.
    Thread { arbiter: ArbiterHandle },
}

/// A thread for data actors.
pub struct Stage {
    place: Place,
    workers: Handle,
    signs: Arc<AtomicU64>,
}

impl Stage {
    /// The caller's own thread.
    #[must_use]
    pub fn here(workers: Handle) -> Self {
        let signs = Arc::default();
        Self {
            place: Place::Here,
            workers,
            signs,
        }
    }

    /// A new thread; it ends with this value.
    #[must_use]
    pub fn thread(workers: Handle) -> Self {
        let arbiter = Arbiter::new().handle();
        let signs = Arc::default();
        Self {
            place: Place::Thread { arbiter },
            workers,
            signs,
        }
    }

    /// What takes time is spawned there.
    #[must_use]
    pub const fn workers(&self) -> &Handle {
        &self.workers
    }

    /// Runs something on this thread.
    pub fn run(&self, work: impl FnOnce() + Send + 'static) {
        match &self.place {
            Place::Here => work(),
            Place::Thread { arbiter } => {
                if !arbiter.spawn_fn(work) {
                    tracing::debug!("the thread of the data actors has ended");
                }
            }
        }
    }

    /// Asks the thread for a sign of life.
    pub fn ping(&self) {
        let signs = Arc::clone(&self.signs);
        self.run(move || {
            signs.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// The signs of life so far.
    #[must_use]
    pub fn signs(&self) -> u64 {
        self.signs.load(Ordering::Relaxed)
    }
}

impl Drop for Stage {
    /// A thread that is blocked ends when it is not blocked any more.
    fn drop(&mut self) {
        if let Place::Thread { arbiter } = &self.place {
            arbiter.stop();
        }
    }
}
