//! Deadlines: of a whole test, and of a condition.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

/// Far longer than any single step takes, for a machine under load.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Runs a test's body. A body that is not done in time fails from the inside, so
/// that what it holds can say how it stands.
pub(crate) async fn scenario(deadline: Duration, body: impl Future<Output = ()>) {
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
