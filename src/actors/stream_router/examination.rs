//! Looking at the stream: what it says of itself, and its open shards.
//!
//! It is looked at from time to time, sooner when something unexpected happened,
//! and with growing pauses while that fails.

use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::StreamRouter;
use crate::actors::fault;
use crate::core::ports::{CallFailure, StreamDescription};
use crate::core::shard_map::{Shard, ShardMap};

/// First and longest pause between attempts to examine a stream.
pub(super) const EXAMINE_PAUSES: (Duration, Duration) =
    (Duration::from_millis(500), Duration::from_secs(30));

/// The least time between two examinations that surprises ask for.
pub(super) const SURPRISE_PAUSE: Duration = Duration::from_secs(1);

impl StreamRouter {
    pub(super) fn examine(&mut self, context: &mut Context<Self>) {
        self.examining = true;
        self.surprised = false;
        let service = Arc::clone(&self.parts.service);
        let both = self.parts.workers.spawn(async move {
            let description = service.describe().await?;
            let shards = service.list_open_shards().await?;
            Ok((description, shards))
        });
        let result = async move {
            both.await.unwrap_or_else(|error| {
                let reason = format!("the examination's task ended: {error}");
                Err(CallFailure::Unknown { reason })
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

    fn examined(
        &mut self,
        result: Result<(StreamDescription, Vec<Shard>), CallFailure>,
        context: &mut Context<Self>,
    ) {
        fault::point("stream_router.Examined");
        self.examining = false;
        let judged = match result {
            Ok((description, shards)) => judge(&description, shards).map(|map| (map, description)),
            Err(failure) => Err(failure.to_string()),
        };
        match judged {
            Ok((map, description)) => {
                self.backoff.reset();
                self.parts.pulse.progress();
                // What surprised us while we looked may have come after the look.
                let pause = if self.surprised {
                    self.surprises.after_failure(fastrand::f64())
                } else {
                    self.parts.refresh
                };
                self.examine_in(pause, context);
                self.is_ready(map, &description);
            }
            Err(reason) => {
                let pause = self.backoff.after_failure(fastrand::f64());
                self.examine_in(pause, context);
                self.is_in_trouble(reason);
            }
        }
    }
}

/// Whether a stream can be written to in order, and its map.
fn judge(description: &StreamDescription, shards: Vec<Shard>) -> Result<ShardMap, String> {
    if description.ignores_keys {
        return Err(
            "the stream's record distribution strategy is AUTO: it ignores partition keys, so no order \
             can be kept; set it to PARTITION_KEY"
                .to_owned(),
        );
    }
    if !description.writable {
        return Err(format!(
            "the stream's status is {}; waiting until it is ACTIVE",
            description.status
        ));
    }
    ShardMap::new(shards).map_err(|error| error.to_string())
}
