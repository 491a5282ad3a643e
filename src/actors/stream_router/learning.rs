//! Without permission to list the shards: they are learnt from where records go.

use std::time::Duration;

use actix::{AsyncContext, Context, Handler};

use super::StreamRouter;
use crate::actors::fault;
use crate::actors::messages::WentTo;
use crate::core::learnt_map::LearntMap;
use crate::core::time::Moment;

/// The least time between two maps: what is learnt in a second is followed at once.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// What has been learnt, and when it was followed last.
pub(super) struct Learning {
    learnt: LearntMap,
    followed_at: Option<Moment>,
    will_follow: bool,
}

impl Learning {
    pub(super) const fn new(learnt: LearntMap) -> Self {
        Self {
            learnt,
            followed_at: None,
            will_follow: false,
        }
    }
}

impl StreamRouter {
    /// Routes by what was learnt, at once or a little later.
    fn follow_learnt(&mut self, context: &mut Context<Self>) {
        let now = self.parts.clock.now();
        let (Some(learning), Some(known)) = (&mut self.learning, &self.known) else {
            return;
        };
        let Ok(map) = learning.learnt.map() else {
            return;
        };
        if learning.will_follow || **known.routing.newest_map() == map {
            return;
        }
        let since = learning.followed_at.map(|followed| now.since(followed));
        if let Some(early) = since.filter(|since| *since < FOLLOW_EVERY) {
            learning.will_follow = true;
            context.run_later(FOLLOW_EVERY.saturating_sub(early), |router, context| {
                if let Some(learning) = &mut router.learning {
                    learning.will_follow = false;
                }
                router.follow_learnt(context);
            });
            return;
        }
        learning.followed_at = Some(now);
        self.follow(Some(map), None);
        self.announce();
    }
}

impl Handler<WentTo> for StreamRouter {
    type Result = ();

    fn handle(&mut self, message: WentTo, context: &mut Self::Context) {
        fault::point("stream_router.WentTo");
        let now = self.parts.clock.now();
        let Some(learning) = &mut self.learning else {
            return;
        };
        for (shard, range) in &message.places {
            learning.learnt.observe(shard, *range, now);
        }
        self.follow_learnt(context);
    }
}
