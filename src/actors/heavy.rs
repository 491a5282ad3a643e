//! Compressing, which holds up whatever else its thread has to do: leases that are to
//! be renewed, calls that were answered.
//!
//! Rules:
//! - what is larger than [`HEAVY`] is compressed on a thread for that;
//! - between smaller pieces others have their turn.

use std::future;
use std::panic;

/// What is larger gets a thread of its own, in bytes: gzip takes about 20 ms for it.
const HEAVY: usize = 1 << 20;

/// After a piece of so many bytes others have their turn at once, in bytes: about 1 ms.
const SIZEABLE: usize = 64 * 1024;

/// Does work on so many bytes.
pub(super) async fn compress<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if bytes <= HEAVY {
        let done = work();
        if bytes > SIZEABLE {
            tokio::task::yield_now().await;
        } else {
            tokio::task::consume_budget().await;
        }
        return done;
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            // As if it had been done here.
            Ok(cause) => panic::resume_unwind(cause),
            // The runtime ends, and this with it.
            Err(_) => future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_large_goes_to_another_thread() {
        let here = std::thread::current().id();
        let thread = || std::thread::current().id();
        assert_eq!(compress(HEAVY, thread).await, here);
        assert_ne!(compress(HEAVY + 1, thread).await, here);
    }

    #[tokio::test]
    async fn a_panic_there_is_a_panic_here() {
        let work = tokio::spawn(compress(HEAVY + 1, || {
            assert!(std::hint::black_box(false), "no good");
        }));
        assert!(work.await.expect_err("a panic").is_panic());
    }
}
