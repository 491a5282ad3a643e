//! A place where tests can make an actor panic.
//!
//! Every handler calls [`point`] first. Without the feature `demo` it is empty;
//! with it, a test (or the environment variable `TIDEGATE_TEST_PANIC`, a comma
//! separated list of `actor.Message=n`) makes the n-th pass of a point panic.

#[cfg(feature = "demo")]
pub use armed::{arm, passed, point};

/// Does nothing: panics on demand exist only in the builds for tests.
#[cfg(not(feature = "demo"))]
#[inline]
pub fn point(_name: &'static str) {}

#[cfg(feature = "demo")]
mod armed {
    use std::collections::HashMap;
    use std::sync::{LazyLock, Mutex, PoisonError};

    #[derive(Default)]
    struct Points {
        passed: HashMap<&'static str, u64>,
        armed: HashMap<String, u64>,
    }

    static POINTS: LazyLock<Mutex<Points>> = LazyLock::new(|| {
        let mut points = Points::default();
        let list = std::env::var("TIDEGATE_TEST_PANIC").unwrap_or_default();
        for entry in list.split(',') {
            if let Some((name, pass)) = entry.split_once('=')
                && let Ok(pass) = pass.parse()
            {
                points.armed.insert(name.to_owned(), pass);
            }
        }
        Mutex::new(points)
    });

    /// Panics when it was armed for this pass.
    ///
    /// # Panics
    /// On demand.
    pub fn point(name: &'static str) {
        let due = {
            let mut points = POINTS.lock().unwrap_or_else(PoisonError::into_inner);
            let passed = points.passed.entry(name).or_default();
            *passed += 1;
            let pass = *passed;
            let due = points.armed.get(name) == Some(&pass);
            if due {
                points.armed.remove(name);
            }
            due
        };
        assert!(!due, "a test asked for a panic at {name}");
    }

    /// Makes the `pass`-th pass from now on of a point panic.
    pub fn arm(name: &str, pass: u64) {
        let mut points = POINTS.lock().unwrap_or_else(PoisonError::into_inner);
        let so_far = points.passed.get(name).copied().unwrap_or(0);
        points.armed.insert(name.to_owned(), so_far + pass);
    }

    /// How often each point was passed.
    #[must_use]
    pub fn passed() -> HashMap<&'static str, u64> {
        POINTS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .passed
            .clone()
    }
}
