//! What a reader does about once a second, and when it rests instead (see
//! [`super::super::rest`]): a thousand readers with nothing to do must cost nothing.
//!
//! A reader rests when all it has to say is said: it waits for news, the probe has
//! looked of late and found none, nothing of it is under way anywhere, nothing is held
//! or limited, and it is shown so, with no backlog. Whatever it is told makes it stir.

use std::time::Duration;

use actix::{AsyncContext, Context, Handler, SpawnHandle};

use super::{BLOCKED_RETRY, OutboxReader};
use crate::actors::fault;
use crate::actors::messages::LookAtYourself;
use crate::actors::rest::Rest;
use crate::admin::status::{PipelineState, WaitStatus};
use crate::core::ports::Backlog;
use crate::core::time::Moment;
use crate::core::wait::{Doing, Wait};

/// How often a reader looks at itself and brings gauges up to date.
const ROUND_EVERY: Duration = Duration::from_secs(1);

/// How often the backlog is counted, in rounds.
const BACKLOG_EVERY: u32 = 5;

/// A reader's rounds.
pub(super) struct Rounds {
    done: u32,
    /// The next one; `None` while it rests.
    next: Option<SpawnHandle>,
    rests: bool,
    /// A count of the backlog is under way.
    pub(super) counting: bool,
    /// When it looks again at a row that holds it.
    looks_again_at: Moment,
}

impl Rounds {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            done: 0,
            next: None,
            rests: false,
            counting: false,
            looks_again_at: now + BLOCKED_RETRY,
        }
    }
}

impl OutboxReader {
    pub(super) fn go_round(&mut self, context: &mut Context<Self>) {
        self.rounds.next = None;
        let now = self.now();
        if now >= self.rounds.looks_again_at {
            self.rounds.looks_again_at = now + BLOCKED_RETRY;
            self.look_again(context);
        }
        self.show(context);
        if self.rounds.done.is_multiple_of(BACKLOG_EVERY) {
            self.count_backlog(context);
            if self.has_letters && !self.draining {
                self.letters_due = true;
                self.go_on(context);
            }
        }
        self.rounds.done = self.rounds.done.wrapping_add(1);
        self.go_round_later(context);
        self.rest_if_idle(context);
    }

    fn go_round_later(&mut self, context: &mut Context<Self>) {
        if fault::forgets("outbox_reader.round.timer") {
            return;
        }
        self.rounds.next = Some(context.run_later(ROUND_EVERY, Self::go_round));
    }

    // === Resting ===

    pub(super) fn rest_if_idle(&mut self, context: &mut Context<Self>) {
        let now = self.now();
        if self.rounds.rests || !self.may_rest(now) {
            return;
        }
        let rest = Rest {
            pledge: self.watch_pledge.clone(),
            heard: self.heard.clone(),
            stream: self.stream.clone(),
        };
        if !rest.holds(now) {
            return;
        }
        self.show(context);
        self.show_backlog(&Backlog::default());
        let waits = WaitStatus::of(self.pulse.says(Doing::Waits(Wait::News), now));
        self.board
            .update_pipeline(&self.key.database, &self.key.name, |entry| {
                entry.shows_wait(Some(waits), true);
            });
        if let Some(next) = self.rounds.next.take() {
            context.cancel_future(next);
        }
        self.rounds.rests = true;
        self.pulse.rests(rest);
    }

    /// Whether there is nothing to do, to see to, or to show.
    fn may_rest(&mut self, now: Moment) -> bool {
        let nothing_is_shown = self.state == PipelineState::Running
            && self.limited.is_none()
            && !self.rounds.counting
            && !self.has_letters
            && !self.letters_due;
        let nothing_goes_on = self.intake.is_idle()
            && self.tag.own.rows() == 0
            && self.resend.request().is_none()
            && self.resend.handed() + self.letters.handed() == 0
            && !self.letters.has_outcomes()
            && !self.letters_next
            && self.coming_back.is_empty();
        let nothing_is_wanted = !self.draining
            && !self.giving_up
            && self.changed.is_none()
            && self.retuned.is_none()
            && self.paused_until.is_none();
        nothing_is_shown
            && nothing_goes_on
            && nothing_is_wanted
            && self.doing(now) == Doing::Waits(Wait::News)
    }

    /// Something happens: it looks at itself again.
    pub(super) fn stir(&mut self, context: &mut Context<Self>) {
        if self.has_rested() {
            self.go_round_later(context);
        }
    }

    /// It rests no more; answers whether it did.
    fn has_rested(&mut self) -> bool {
        let rested = std::mem::take(&mut self.rounds.rests);
        if rested {
            self.rounds.looks_again_at = self.now() + BLOCKED_RETRY;
            self.pulse.stirs();
        }
        rested
    }
}

impl Handler<LookAtYourself> for OutboxReader {
    type Result = ();

    fn handle(&mut self, _: LookAtYourself, context: &mut Self::Context) {
        if self.has_rested() {
            self.go_round(context);
        }
    }
}
