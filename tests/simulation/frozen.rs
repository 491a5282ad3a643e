//! Processes that do not run for a while, as after SIGSTOP: nothing in them is polled,
//! while what they have sent goes on.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tidegate::actors::clock::Clock;
use tidegate::core::time::Moment;
use tokio::time::Sleep;

/// Till when a process is frozen.
#[derive(Clone, Default)]
pub(crate) struct Frost(Rc<Cell<Moment>>);

impl Frost {
    pub(crate) fn until(&self, until: Moment) {
        self.0.set(until);
    }
}

/// A process that can be frozen.
pub(crate) struct Freezable {
    inner: Pin<Box<dyn Future<Output = ()>>>,
    frost: Frost,
    clock: Clock,
    nap: Option<Pin<Box<Sleep>>>,
}

impl Freezable {
    pub(crate) fn new(
        inner: impl Future<Output = ()> + 'static,
        frost: Frost,
        clock: Clock,
    ) -> Self {
        Self {
            inner: Box::pin(inner),
            frost,
            clock,
            nap: None,
        }
    }
}

impl Future for Freezable {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let (now, until) = (self.clock.now(), self.frost.0.get());
            if now >= until {
                self.nap = None;
                return self.inner.as_mut().poll(context);
            }
            let nap = self
                .nap
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(until.since(now))));
            if nap.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.nap = None;
        }
    }
}
