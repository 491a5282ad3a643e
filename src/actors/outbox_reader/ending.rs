//! How a reader ends.

use std::sync::Arc;

use actix::{ActorContext, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::OutboxReader;
use super::work::Done;
use crate::actors::child::Exit;
use crate::actors::fault;
use crate::actors::messages::{Drain, FlowBecameVoid, GiveUp, StopAs, StopNow};
use crate::core::ports::{Fenced, StoreError};

/// How long a drain waits for what else was handed when a row holds the pipeline.
const BLOCKED_DRAIN: Duration = Duration::from_secs(2);

impl OutboxReader {
    /// Looks again at a row that holds the pipeline.
    pub(super) fn look_again(&mut self, context: &mut Context<Self>) {
        if let Some(rejected) = self.rejected.take() {
            self.save_and_end(
                Exit::Blocked(rejected.shown.clone()),
                Some(rejected),
                context,
            );
        } else if self.intake.is_held() && !self.draining {
            self.intake.resume_reading();
            self.go_on(context);
        }
    }

    /// The last acts of a drain: write the position, give the lease back. While the
    /// database does not answer they are tried again: the supervisor sees to it that
    /// this ends.
    pub(super) fn release(&mut self, context: &mut Context<Self>) {
        self.releasing = true;
        self.busy_since = self.now();
        // No letter is left to be written: see `go_on`.
        let (position, letters) = self.intake.to_save_last(self.now());
        self.report_violations();
        self.say_left();
        let work = self.work.clone();
        let replay = self.resend.last_progress();
        let node = Arc::clone(&self.node);
        let last_acts = async move {
            let (store, pipeline, epoch) = (work.store, work.pipeline, work.epoch);
            let fenced = store
                .save_position(&pipeline, epoch, &position, &letters)
                .await?;
            if let Some(replay) = replay {
                store.save_replay(&pipeline, epoch, &replay).await?;
            }
            store.release(&pipeline, &node, epoch).await?;
            Ok(fenced)
        };
        let last_acts = self.workers.spawn(last_acts);
        context.spawn(last_acts.into_actor(self).map(|result, reader, context| {
            match result {
                Ok(Ok(Fenced::Written)) => reader.end(Exit::Drained, context),
                Ok(Ok(Fenced::Stale)) => reader.end(Exit::LeaseLost, context),
                Ok(Err(StoreError::Unavailable(reason))) => reader.release_later(&reason, context),
                Ok(Err(StoreError::Refused(reason))) => {
                    reader.end(Exit::Refused(reason), context);
                }
                Err(error) => {
                    tracing::warn!(pipeline = %reader.key, %error, "the last position was not written; some rows will be sent again");
                    reader.end(Exit::Stopped, context);
                }
            }
        }));
    }

    fn release_later(&mut self, reason: &str, context: &mut Context<Self>) {
        tracing::warn!(pipeline = %self.key, %reason, "the last position was not written; trying again");
        self.releasing = false;
        let pause = self.backoff.after_failure(fastrand::f64());
        self.paused_until = Some(self.now() + pause);
        self.go_on(context);
    }

    /// The last acts of a drain that is cut off. Nothing of this flow is sent any
    /// more when the lease is given back.
    pub(super) fn give_up(&mut self, context: &mut Context<Self>) {
        self.releasing = true;
        let exit = match &self.rejected {
            Some(rejected) => Exit::Blocked(rejected.reason.clone()),
            None => Exit::Stopped,
        };
        let (position, letters) = self.intake.to_save_last(self.now());
        self.tag.make_void();
        let (work, node) = (self.work.clone(), Arc::clone(&self.node));
        let last_acts = async move {
            let (store, pipeline, epoch) = (
                Arc::clone(&work.store),
                Arc::clone(&work.pipeline),
                work.epoch,
            );
            work.save(position, letters).await?;
            store.release(&pipeline, &node, epoch).await
        };
        let last_acts = self.workers.spawn(last_acts);
        context.spawn(last_acts.into_actor(self).map(move |result, reader, context| {
            match result {
                Ok(Ok(())) => {
                            reader.letters_written();
                        }
                Ok(Err(error)) => {
                    tracing::warn!(pipeline = %reader.key, %error, "the last position was not written; more rows than those in flight will be sent again");
                }
                Err(error) => {
                    tracing::warn!(pipeline = %reader.key, %error, "the last position was not written; more rows than those in flight will be sent again");
                }
            }
            reader.end(exit, context);
        }));
    }

    /// A row that holds the pipeline holds no drain: what else was handed has had
    /// its time.
    fn give_up_if_blocked(&mut self, context: &mut Context<Self>) {
        self.giving_up |= self.rejected.is_some();
        self.go_on(context);
        context.run_later(BLOCKED_DRAIN, Self::give_up_if_blocked);
    }

    pub(super) fn end(&mut self, exit: Exit, context: &mut Context<Self>) {
        self.tag.make_void();
        self.note.write(exit);
        context.stop();
    }

    /// Writes the position down, so that what others have delivered meanwhile is
    /// not sent again, and ends. What is `kept` is dropped only then.
    pub(super) fn save_and_end<K: 'static>(
        &mut self,
        exit: Exit,
        kept: K,
        context: &mut Context<Self>,
    ) {
        self.releasing = true;
        self.busy_since = self.now();
        let (position, letters) = self.intake.to_save_last(self.now());
        let last_act = self
            .workers
            .spawn(self.work.clone().save(position, letters));
        context.spawn(last_act.into_actor(self).map(move |result, reader, context| {
            match result {
                Ok(Ok(Some(Done::Saved(Fenced::Written)))) => {
                    reader.letters_written();
                }
                Ok(Err(error)) => {
                    tracing::debug!(pipeline = %reader.key, %error, "the last position was not written");
                }
                Ok(Ok(_)) | Err(_) => {}
            }
            reader.end(exit, context);
            drop(kept);
        }));
    }
}

impl Handler<FlowBecameVoid> for OutboxReader {
    type Result = ();

    fn handle(&mut self, _: FlowBecameVoid, context: &mut Self::Context) {
        fault::point("outbox_reader.FlowBecameVoid");
        if self.giving_up && self.releasing {
            // It has made it void itself.
            return;
        }
        self.end(Exit::RowsLost, context);
    }
}

impl Handler<Drain> for OutboxReader {
    type Result = ();

    fn handle(&mut self, drain: Drain, context: &mut Self::Context) {
        fault::point("outbox_reader.Drain");
        self.draining = true;
        self.intake.stop_reading();
        self.will_recall(drain, context);
        self.go_on(context);
        context.run_later(BLOCKED_DRAIN, Self::give_up_if_blocked);
    }
}

impl Handler<GiveUp> for OutboxReader {
    type Result = ();

    fn handle(&mut self, message: GiveUp, context: &mut Self::Context) {
        fault::point("outbox_reader.GiveUp");
        let again = self.resend.handed() + self.letters.handed();
        // What came back, or is remembered by id, was not sent.
        let rows = self.intake.under_way() + self.intake.letters() + again;
        message.left.store(rows as u64, Ordering::Relaxed);
        self.giving_up = true;
        self.go_on(context);
    }
}

impl Handler<StopNow> for OutboxReader {
    type Result = ();

    fn handle(&mut self, _: StopNow, context: &mut Self::Context) {
        self.end(Exit::Stopped, context);
    }
}

impl Handler<StopAs> for OutboxReader {
    type Result = ();

    fn handle(&mut self, StopAs(exit): StopAs, context: &mut Self::Context) {
        if self.releasing && matches!(exit, Exit::LeaseLost) {
            // A beat that came after the lease was given back does not find it any more.
            // What is under way says better how it ended.
            return;
        }
        self.end(exit, context);
    }
}
