//! Places where tests can make an actor fail.
//!
//! Every handler calls [`point`] first. Without the feature `demo` it is empty;
//! with it, a test (or the environment variable `TIDEGATE_TEST_FAULTS`, a comma
//! separated list of `actor.Message=n:what`) makes the n-th pass of a point
//! *panic*, or *block* its thread for ever; where a place asks [`forgets`], the
//! n-th pass *forgets* what it was about to do.
//!
//! A simulation decides for its own thread with [`decide`], at every pass of any
//! point.
//!
//! `TIDEGATE_TEST_CHAOS=200` lets some point panic every 200 ms, another one each
//! time.

#[cfg(feature = "demo")]
pub use armed::{Decision, Failure, arm, decide, forgets, passed, point};

/// Does nothing: failures on demand exist only in the builds for tests.
#[cfg(not(feature = "demo"))]
#[inline]
pub fn point(_name: &'static str) {}

/// Nothing is forgotten: failures on demand exist only in the builds for tests.
#[cfg(not(feature = "demo"))]
#[inline]
#[must_use]
pub const fn forgets(_name: &'static str) -> bool {
    false
}

#[cfg(feature = "demo")]
mod armed {
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
    use std::time::Duration;

    use tokio::time::Instant;

    /// What a point does.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Failure {
        /// Panics.
        Panic,
        /// Blocks its thread.
        Block,
        /// Forgets what it was about to do.
        Forget,
    }

    struct Chaos {
        every: Duration,
        last: Instant,
        last_name: &'static str,
    }

    #[derive(Default)]
    struct Points {
        passed: HashMap<&'static str, u64>,
        armed: HashMap<String, (u64, Failure)>,
        chaos: Option<Chaos>,
    }

    static POINTS: LazyLock<Mutex<Points>> = LazyLock::new(|| Mutex::new(from_environment()));

    fn from_environment() -> Points {
        let mut points = Points::default();
        let list = std::env::var("TIDEGATE_TEST_FAULTS").unwrap_or_default();
        for entry in list.split(',') {
            let Some((name, what)) = entry.split_once('=') else {
                continue;
            };
            let (pass, failure) = what.split_once(':').unwrap_or((what, "panic"));
            let failure = match failure {
                "block" => Failure::Block,
                "forget" => Failure::Forget,
                _ => Failure::Panic,
            };
            if let Ok(pass) = pass.parse() {
                points.armed.insert(name.to_owned(), (pass, failure));
            }
        }
        let every = std::env::var("TIDEGATE_TEST_CHAOS").ok();
        let millis = every.and_then(|millis| millis.parse().ok());
        points.chaos = millis.map(|millis| Chaos {
            every: Duration::from_millis(millis),
            last: Instant::now(),
            last_name: "",
        });
        points
    }

    fn points() -> MutexGuard<'static, Points> {
        POINTS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a pass of a point is to do; `None`: nothing happens.
    pub type Decision = Box<dyn FnMut(&'static str) -> Option<Failure>>;

    thread_local! {
        static DECISION: RefCell<Option<Decision>> = const { RefCell::new(None) };
    }

    /// Lets `decision` say what happens at the points that this thread passes, in
    /// place of what was armed; `None` ends that.
    pub fn decide(decision: Option<Decision>) {
        DECISION.set(decision);
    }

    fn due(name: &'static str) -> Option<Failure> {
        let decided =
            DECISION.with_borrow_mut(|decision| decision.as_mut().map(|decide| decide(name)));
        decided.unwrap_or_else(|| armed_for(name))
    }

    fn armed_for(name: &'static str) -> Option<Failure> {
        let mut points = points();
        let passed = points.passed.entry(name).or_default();
        *passed += 1;
        let pass = *passed;
        if let Some((armed, failure)) = points.armed.get(name).copied()
            && armed == pass
        {
            points.armed.remove(name);
            return Some(failure);
        }
        let chaos = points.chaos.as_mut()?;
        let is_time = chaos.last.elapsed() >= chaos.every && chaos.last_name != name;
        // The supervisor's own death rebuilds everything: that is another test.
        if !is_time || name.starts_with("supervisor.") {
            return None;
        }
        chaos.last = Instant::now();
        chaos.last_name = name;
        Some(Failure::Panic)
    }

    /// Panics or blocks when it was armed for this pass.
    ///
    /// # Panics
    /// On demand.
    pub fn point(name: &'static str) {
        match due(name) {
            None | Some(Failure::Forget) => {}
            Some(Failure::Panic) => panic!("a test asked for a panic at {name}"),
            Some(Failure::Block) => {
                tracing::error!(name, "a test asked for a blocked thread");
                loop {
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        }
    }

    /// Whether a test wants forgotten what comes next.
    #[must_use]
    pub fn forgets(name: &'static str) -> bool {
        due(name) == Some(Failure::Forget)
    }

    /// Makes the `pass`-th pass from now on of a point fail.
    pub fn arm(name: &str, pass: u64, failure: Failure) {
        let mut points = points();
        let so_far = points.passed.get(name).copied().unwrap_or(0);
        points
            .armed
            .insert(name.to_owned(), (so_far + pass, failure));
    }

    /// How often each point was passed.
    #[must_use]
    pub fn passed() -> HashMap<&'static str, u64> {
        points().passed.clone()
    }
}
