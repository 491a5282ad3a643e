//! Deadlines: of a whole test, and of a condition.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::pin::pin;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Far longer than any single step takes, for a machine under load.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Scenarios that run at once, at most: on a machine with many cores they would
/// use up the server's connections.
const AT_ONCE: u32 = 4;

static PLACES: Semaphore = Semaphore::const_new(AT_ONCE as usize);

/// Runs a test's body. A body that is not done in time fails from the inside, so
/// that what it holds can say how it stands.
pub(crate) async fn scenario(deadline: Duration, body: impl Future<Output = ()>) {
    run(1, deadline, body).await;
}

/// The same while no other scenario runs: for tests that measure time.
pub(crate) async fn scenario_alone(deadline: Duration, body: impl Future<Output = ()>) {
    run(AT_ONCE, deadline, body).await;
}

async fn run(places: u32, deadline: Duration, body: impl Future<Output = ()>) {
    let _places = PLACES.acquire_many(places).await.expect("never closed");
    let mut body = pin!(body);
    let in_time = tokio::time::timeout(deadline, body.as_mut()).await;
    assert!(in_time.is_ok(), "the test is not done within {deadline:?}");
}

/// Waits until a condition holds.
#[track_caller]
pub(crate) fn until<'a>(
    what: &'a str,
    patience: Duration,
    mut holds: impl FnMut() -> bool + 'a,
) -> impl Future<Output = ()> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + patience;
        while !holds() {
            assert!(
                Instant::now() < deadline,
                "{caller}: not within {patience:?}: {what}"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
