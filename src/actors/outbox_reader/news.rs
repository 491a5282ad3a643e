//! What a reader hears from the probe, which looks for new rows in its place while
//! there are none.

use std::sync::Arc;
use std::time::Duration;

use actix::{AsyncContext, Context, Handler};

use super::OutboxReader;
use crate::actors::fault;
use crate::actors::messages::{NothingNew, ProbeReady, Wake, Watch};

impl OutboxReader {
    pub(super) fn watch(&mut self, context: &mut Context<Self>) {
        if self.watching || self.draining {
            return;
        }
        let pledge = Arc::new(());
        self.watch_pledge = Arc::downgrade(&pledge);
        self.heard = Arc::default();
        let watch = Watch {
            pipeline: Arc::clone(&self.work.pipeline),
            outbox: self.work.renderer.outbox.id,
            seen: self.intake.head().clone(),
            reader: context.address(),
            pledge,
            heard: Arc::clone(&self.heard),
        };
        self.watching = self.probe.try_send(watch).is_ok();
        if !self.watching {
            // The probe is being started again: look by ourselves meanwhile.
            self.intake.wake();
            let later = self.now() + Duration::from_secs(1);
            self.wake_at(later, context);
        }
    }
}

impl OutboxReader {
    /// Goes on from where the probe has said last that there is nothing new.
    pub(super) fn hear(&mut self) {
        if self.busy || !self.watching {
            return;
        }
        if let Some((snapshot, taken_at)) = self.heard.take() {
            self.intake.advance_head(snapshot, taken_at);
        }
    }

    /// There may be news.
    fn look_for_news(&mut self, context: &mut Context<Self>) {
        self.hear();
        self.watching = false;
        self.intake.wake();
        self.go_on(context);
    }

    /// A probe that has died tells nothing: until there is another one, the reader
    /// looks by itself, however long that takes.
    pub(super) fn miss_a_dead_probe(&mut self, context: &mut Context<Self>) {
        if self.watching && self.watch_pledge.strong_count() == 0 && !self.probe.connected() {
            self.look_for_news(context);
        }
    }
}

impl Handler<Wake> for OutboxReader {
    type Result = ();

    fn handle(&mut self, _: Wake, context: &mut Self::Context) {
        fault::point("outbox_reader.Wake");
        self.look_for_news(context);
    }
}

impl Handler<ProbeReady> for OutboxReader {
    type Result = ();

    fn handle(&mut self, message: ProbeReady, context: &mut Self::Context) {
        fault::point("outbox_reader.ProbeReady");
        self.probe = message.probe;
        self.look_for_news(context);
    }
}

impl Handler<NothingNew> for OutboxReader {
    type Result = ();

    fn handle(&mut self, _: NothingNew, context: &mut Self::Context) {
        fault::point("outbox_reader.NothingNew");
        self.hear();
        self.rest_if_idle(context);
    }
}
