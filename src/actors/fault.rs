//! Places where tests can make an actor fail.
//!
//! Every handler calls [`point`] first. Without the feature `demo` it is empty;
//! with it, a test (or the environment variable `TIDEGATE_TEST_FAULTS`, a comma
//! separated list of `actor.Message=n:what`) makes the n-th pass of a point
//! *panic*, or *block* its thread for ever, or *spin* there; where a place asks
//! [`forgets`], the n-th pass *forgets* what it was about to do. `n+` stands for
//! the n-th pass and all that follow.
//!
//! A simulation decides for its own thread with [`decide`], at every pass of any
//! point.
//!
//! `TIDEGATE_TEST_CHAOS=200` lets a random actor panic every 200 ms, the supervisor
//! among them; `200:20000` for 20 s; `200:20000:shard_writer/orders,probe` only the
//! writers of stream `orders` and probes (see [`strike`]).

#[cfg(feature = "demo")]
pub use armed::{Decision, Failure, arm, decide, forgets, passed, point, strike};
#[cfg(feature = "demo")]
mod chaos;

/// Does nothing: failures on demand exist only in the builds for tests.
#[cfg(not(feature = "demo"))]
#[inline]
pub fn point(_name: &'static str) {}

/// Does nothing: failures on demand exist only in the builds for tests.
#[cfg(not(feature = "demo"))]
#[inline]
pub fn strike(_actor: &'static str, _whose: &str) {}

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

    use super::chaos::Chaos;

    /// What a point does.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Failure {
        /// Panics.
        Panic,
        /// Blocks its thread.
        Block,
        /// Keeps its thread busy.
        Spin,
        /// Forgets what it was about to do.
        Forget,
    }

    /// What was armed for a point.
    #[derive(Clone, Copy)]
    struct Armed {
        pass: u64,
        /// Whether the passes that follow fail too.
        stays: bool,
        failure: Failure,
    }

    #[derive(Default)]
    struct Points {
        passed: HashMap<&'static str, u64>,
        armed: HashMap<String, Armed>,
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
                "spin" => Failure::Spin,
                "forget" => Failure::Forget,
                _ => Failure::Panic,
            };
            let (pass, stays) = match pass.strip_suffix('+') {
                Some(pass) => (pass, true),
                None => (pass, false),
            };
            if let Ok(pass) = pass.parse() {
                let armed = Armed {
                    pass,
                    stays,
                    failure,
                };
                points.armed.insert(name.to_owned(), armed);
            }
        }
        let chaos = std::env::var("TIDEGATE_TEST_CHAOS").ok();
        points.chaos = chaos.and_then(|text| Chaos::parse(&text));
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
        if let Some(armed) = points.armed.get(name).copied()
            && (armed.pass == pass || (armed.stays && armed.pass < pass))
        {
            if !armed.stays {
                points.armed.remove(name);
            }
            return Some(armed.failure);
        }
        let actor = name.split('.').next()?;
        let strikes = points.chaos.as_mut()?.strikes(actor, None);
        strikes.then_some(Failure::Panic)
    }

    /// Panics when chaos is to strike this actor of this pipeline, stream or shard.
    ///
    /// # Panics
    /// On demand.
    pub fn strike(actor: &'static str, whose: &str) {
        let mut points = points();
        let chaos = points.chaos.as_mut();
        let strikes = chaos.is_some_and(|chaos| chaos.strikes(actor, Some(whose)));
        drop(points);
        assert!(!strikes, "a test asked for a panic of {actor} of {whose}");
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
            Some(Failure::Spin) => {
                tracing::error!(name, "a test asked for a busy thread");
                loop {
                    std::hint::spin_loop();
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
        let armed = Armed {
            pass: so_far + pass,
            stays: false,
            failure,
        };
        points.armed.insert(name.to_owned(), armed);
    }

    /// How often each point was passed.
    #[must_use]
    pub fn passed() -> HashMap<&'static str, u64> {
        points().passed.clone()
    }
}
