//! What a router waits for, and whether somebody will wake it.

use std::time::Duration;

use actix::{AsyncContext, Context};

use super::StreamRouter;
use crate::admin::status::WaitStatus;
use crate::core::time::Moment;
use crate::core::wait::{Doing, Wait, judge_timer};

/// How often the router looks at itself.
const BEAT_EVERY: Duration = Duration::from_secs(1);

impl StreamRouter {
    pub(super) fn beat(&mut self, context: &mut Context<Self>) {
        let now = self.parts.clock.now();
        let doing = self.doing(now);
        let waits = WaitStatus::of(self.parts.pulse.says(doing, now));
        self.parts
            .board
            .update_stream(self.parts.stream.label(), |entry| {
                entry.waits = Some(waits);
            });
        context.run_later(BEAT_EVERY, Self::beat);
    }

    /// What it finds itself doing. Without an examination under way or to come, no
    /// reshard would ever be seen.
    fn doing(&mut self, now: Moment) -> Doing {
        let patience = self.parts.pulse.patience();
        let examination = if self.examining {
            patience.judge(Wait::Kinesis, self.examines_at, now)
        } else if self.next_examination.is_some() {
            judge_timer(Wait::Work, self.examines_at, now)
        } else {
            Doing::Stalled("no examination of the stream is under way or to come")
        };
        match examination {
            Doing::Stalled(_) => examination,
            Doing::Waits(_) => self.doing_for_rows(now).unwrap_or(examination),
        }
    }

    /// What the rows that lie here wait for.
    fn doing_for_rows(&mut self, now: Moment) -> Option<Doing> {
        let routing = &self.known.as_ref()?.routing;
        if !routing.is_handing_over() {
            self.hands_over_since = None;
            return routing
                .waits_for_writer()
                .then_some(Doing::Waits(Wait::Writer));
        }
        // The writers give back once their calls have ended.
        let since = *self.hands_over_since.get_or_insert(now);
        let patience = self.parts.pulse.patience();
        Some(patience.judge(Wait::HandOver, since, now))
    }
}
