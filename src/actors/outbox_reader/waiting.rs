//! What a reader waits for, and whether somebody will wake it.

use super::OutboxReader;
use super::room::Reading;
use crate::core::intake::Wish;
use crate::core::time::Moment;
use crate::core::wait::{Doing, Wait, judge_timer};

impl OutboxReader {
    /// What it finds itself doing. Whatever happens to a reader makes it go on until
    /// there is nothing to do; so whatever there is to do now, without a timer or a
    /// task of its own, waits for a wake-up that was lost.
    pub(super) fn doing(&mut self, now: Moment) -> Doing {
        if self.busy || self.releasing {
            let patience = self.pulse.patience();
            return patience.judge(Wait::Database, self.busy_since, now);
        }
        if self.has_lost_outcomes() {
            return Doing::Stalled("the outcomes of handed rows are lost");
        }
        if let Some(due) = self.timer.as_ref().map(|(due, _)| *due) {
            return judge_timer(self.timed_wait(now), due, now);
        }
        if self.stopped.is_some() {
            return Doing::Waits(Wait::Stream);
        }
        if self.rejected.is_some() || (self.intake.is_held() && !self.draining) {
            // It looks again from time to time.
            return Doing::Waits(Wait::Person);
        }
        let room = self.room(Reading::Live, now);
        if !matches!(self.intake.next_wish(room, now), Wish::Wait { .. }) {
            return Doing::Stalled("there is something to do and nothing under way");
        }
        if self.tag.own.rows() > 0 {
            return Doing::Waits(Wait::Outcomes);
        }
        if self.watching && self.watch_pledge.strong_count() > 0 {
            return Doing::Waits(Wait::News);
        }
        if self.watching {
            return Doing::Stalled("the probe does not look for news any more");
        }
        Doing::Stalled("nothing is under way and nothing is waited for")
    }

    /// What a timer of its own was set for.
    fn timed_wait(&mut self, now: Moment) -> Wait {
        let room = self.room(Reading::Live, now);
        if self.paused_until.is_some() {
            Wait::Database
        } else if self.stopped.is_some() {
            Wait::Stream
        } else if room.rows == 0 || room.bytes == 0 {
            Wait::Permits
        } else {
            Wait::Time
        }
    }

    /// Every row that is on its way has its ticket somewhere. Rows that are waited
    /// for and have none: their outcomes were told, and did not come here.
    fn has_lost_outcomes(&self) -> bool {
        self.intake.under_way() > self.tag.own.rows()
    }
}
