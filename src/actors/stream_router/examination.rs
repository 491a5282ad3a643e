//! Looking at the stream: what it says of itself, and its open shards.
//!
//! It is looked at from time to time, sooner when something unexpected happened,
//! and with growing pauses while that fails or the stream cannot be used.

use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::StreamRouter;
use crate::actors::fault;
use crate::core::examination::{Findings, Verdict, judge};
use crate::core::ports::CallFailure;

/// First and longest pause between attempts to examine a stream.
pub(super) const EXAMINE_PAUSES: (Duration, Duration) =
    (Duration::from_millis(500), Duration::from_secs(30));

/// The least time between two examinations that surprises ask for.
pub(super) const SURPRISE_PAUSE: Duration = Duration::from_secs(1);

impl StreamRouter {
    pub(super) fn examine(&mut self, context: &mut Context<Self>) {
        self.examining = true;
        self.examines_at = self.parts.clock.now();
        self.was_surprised = std::mem::take(&mut self.surprised);
        let service = Arc::clone(&self.parts.service);
        let both = self.parts.workers.spawn(async move {
            Findings {
                description: service.describe().await,
                shards: service.list_open_shards().await,
            }
        });
        let result = async move {
            both.await.unwrap_or_else(|error| {
                let reason = format!("the examination's task ended: {error}");
                let failure = CallFailure::Unknown { reason };
                Findings {
                    description: Err(failure.clone()),
                    shards: Err(failure),
                }
            })
        };
        context.spawn(result.into_actor(self).map(|result, router, context| {
            router.examined(result, context);
        }));
    }

    pub(super) fn examine_in(&mut self, pause: Duration, context: &mut Context<Self>) {
        if let Some(handle) = self.next_examination.take() {
            context.cancel_future(handle);
        }
        self.examines_at = self.parts.clock.now() + pause;
        let handle = context.run_later(pause, |router, context| {
            router.next_examination = None;
            router.examine(context);
        });
        self.next_examination = Some(handle);
    }

    /// Something happened that the map does not explain: the stream is looked at
    /// again soon, less soon when that explained nothing. While examinations fail,
    /// one is due in any case.
    pub(super) fn is_surprised(&mut self, context: &mut Context<Self>) {
        let is_new = !std::mem::replace(&mut self.surprised, true);
        if is_new && !self.examining && self.backoff.failures() == 0 {
            let pause = self.surprises.after_failure(fastrand::f64());
            self.examine_in(pause, context);
        }
    }

    fn examined(&mut self, findings: Findings, context: &mut Context<Self>) {
        fault::point("stream_router.Examined");
        self.examining = false;
        match judge(findings) {
            Verdict::Usable(usable) => {
                self.backoff.reset();
                self.parts.pulse.progress();
                // What surprised us while we looked may have come after the look.
                let pause = if self.surprised {
                    self.surprises.after_failure(fastrand::f64())
                } else {
                    if !self.was_surprised {
                        self.surprises.reset();
                    }
                    self.parts.refresh
                };
                self.examine_in(pause, context);
                self.is_usable(usable);
            }
            Verdict::Stop { reason } => {
                let pause = self.backoff.after_failure(fastrand::f64());
                self.examine_in(pause.min(self.parts.refresh), context);
                self.stops(&reason);
            }
            Verdict::Unknown { reason } => {
                let pause = self.backoff.after_failure(fastrand::f64());
                self.examine_in(pause, context);
                self.cannot_be_examined(reason);
            }
        }
    }
}
