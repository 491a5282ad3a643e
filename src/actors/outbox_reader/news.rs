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
        let watch = Watch {
            pipeline: Arc::clone(&self.work.pipeline),
            outbox: self.work.renderer.outbox.id,
            seen: self.intake.head().clone(),
            reader: context.address(),
            pledge,
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
    /// A probe that has died tells nothing: until there is another one, the reader
    /// looks by itself, however long that takes.
    pub(super) fn miss_a_dead_probe(&mut self, context: &mut Context<Self>) {
        if self.watching && self.watch_pledge.strong_count() == 0 && !self.probe.connected() {
            self.watching = false;
            self.intake.wake();
            self.go_on(context);
        }
    }
}

impl Handler<Wake> for OutboxReader {
    type Result = ();

    fn handle(&mut self, _: Wake, context: &mut Self::Context) {
        fault::point("outbox_reader.Wake");
        self.watching = false;
        self.intake.wake();
        self.go_on(context);
    }
}

impl Handler<ProbeReady> for OutboxReader {
    type Result = ();

    fn handle(&mut self, message: ProbeReady, context: &mut Self::Context) {
        fault::point("outbox_reader.ProbeReady");
        self.probe = message.probe;
        self.watching = false;
        self.intake.wake();
        self.go_on(context);
    }
}

impl Handler<NothingNew> for OutboxReader {
    type Result = ();

    fn handle(&mut self, message: NothingNew, _: &mut Self::Context) {
        fault::point("outbox_reader.NothingNew");
        self.nothing_new_at = Some(message.taken_at);
        if !self.busy {
            self.intake.advance_head(message.snapshot, message.taken_at);
        }
    }
}
