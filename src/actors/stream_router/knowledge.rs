//! What the router makes of what it finds out about the stream.

use std::sync::Arc;

use super::StreamRouter;
use super::learning::Learning;
use crate::actors::messages::{StreamChanged, StreamState};
use crate::actors::permits::FlowTag;
use crate::admin::status::ShardStatus;
use crate::core::examination::{DEFAULT_MAX_RECORD_BYTES, Usable};
use crate::core::learnt_map::LearntMap;
use crate::core::ports::StreamDescription;
use crate::core::routing::{Change, Routing};
use crate::core::shard_map::{Shard, ShardMap};

use super::super::messages::RoutedRow;

/// A stream whose shards are known, as far as they can be.
pub(super) struct Known {
    pub(super) routing: Routing<Arc<FlowTag>, RoutedRow>,
    /// Its ARN and when it was made, as far as that is known.
    made: Option<Made>,
    /// The same as a text, or the stream's name.
    identity: Arc<str>,
    max_record_bytes: usize,
}

/// Which stream of its name it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Made {
    arn: String,
    at_ms: Option<i64>,
}

impl Made {
    fn of(description: &StreamDescription) -> Self {
        Self {
            arn: description.arn.clone(),
            at_ms: description.created_at_ms,
        }
    }
}

impl StreamRouter {
    pub(super) fn is_usable(&mut self, usable: Usable) {
        let stream = self.parts.stream.clone();
        let stopped = self.stopped.take();
        if stopped.is_some() {
            self.announced = None;
        }
        if self.trouble.take().is_some() || stopped.is_some() {
            tracing::info!(%stream, "the stream can be used again");
        }
        self.take_advice(usable.advice);
        let status = usable.description.as_ref().map(|one| one.status.clone());
        self.parts.board.update_stream(stream.label(), |entry| {
            entry.name = Arc::clone(stream.name());
            entry.status = status.unwrap_or_default();
            entry.problem = None;
        });
        let map = match usable.map {
            Some(map) => {
                self.learning = None;
                Some(map)
            }
            None => self.learn(),
        };
        self.follow(map, usable.description.as_ref());
        self.give_orders();
        self.announce();
    }

    /// The shards are not listed for us: they are learnt, from what is known on.
    /// Answers the map to begin with.
    fn learn(&mut self) -> Option<ShardMap> {
        if self.learning.is_some() {
            return None;
        }
        let now = self.parts.clock.now();
        let known = self.known.as_ref().map(|known| known.routing.newest_map());
        let learnt = known.map_or_else(LearntMap::default, |map| LearntMap::from_map(map, now));
        let map = learnt.map().ok();
        self.learning = Some(Learning::new(learnt));
        map
    }

    fn take_advice(&mut self, advice: Option<String>) {
        if self.advice == advice {
            return;
        }
        let stream = &self.parts.stream;
        match &advice {
            Some(advice) => tracing::warn!(%stream, %advice, "a permission is missing"),
            None => tracing::info!(%stream, "no permission is missing any more"),
        }
        self.advice.clone_from(&advice);
        self.parts.board.update_stream(stream.label(), |entry| {
            entry.advice = advice;
        });
    }

    /// Routes by a new map, if there is one, and by what the description says.
    pub(super) fn follow(
        &mut self,
        map: Option<ShardMap>,
        description: Option<&StreamDescription>,
    ) {
        let stream = self.parts.stream.clone();
        let limit = description.map(|one| one.max_record_bytes);
        let made = description.map(Made::of);
        let identity = match &made {
            Some(made) => format!("{} of {:?}", made.arn, made.at_ms),
            None => stream.to_string(),
        };
        let Some(known) = &mut self.known else {
            let Some(map) = map else {
                return;
            };
            let max_record_bytes = limit.unwrap_or(DEFAULT_MAX_RECORD_BYTES);
            tracing::info!(%stream, shards = map.shards().len(), max_record_bytes, "the stream is ready");
            self.known = Some(Known {
                routing: Routing::new(Arc::new(map)),
                made,
                identity: identity.into(),
                max_record_bytes,
            });
            return;
        };
        if let Some(limit) = limit.filter(|limit| *limit != known.max_record_bytes) {
            tracing::info!(%stream, max_record_bytes = limit, "the stream takes records of another size now");
            known.max_record_bytes = limit;
        }
        let was_renewed = known.made.is_some() && made.is_some() && known.made != made;
        if made.is_some() && known.made != made {
            known.identity = identity.into();
            known.made = made;
        }
        let Some(map) = map else {
            return;
        };
        if was_renewed {
            tracing::warn!(
                %stream,
                "the stream was deleted and made again; what it took before is gone with it, what was not sent goes to the new one"
            );
        } else if **known.routing.newest_map() == map {
            return;
        } else {
            let (before, shards) = (known.routing.map().shards().len(), map.shards().len());
            tracing::info!(%stream, before, shards, "the shards of the stream have changed");
        }
        self.surprises.reset();
        let change = if was_renewed {
            Change::Renewal
        } else {
            Change::Reshard
        };
        let steps = known.routing.reshard(Arc::new(map), change);
        self.perform(steps);
    }

    /// The stream must not be written to: writers hold what they have, readers
    /// read nothing more, until it is right again.
    pub(super) fn stops(&mut self, reason: &str) {
        if self.stopped.as_deref() == Some(reason) {
            return;
        }
        let stream = self.parts.stream.clone();
        tracing::warn!(%stream, %reason, "the stream cannot be used; trying again");
        self.show_problem(reason);
        self.trouble = None;
        self.stopped = Some(reason.to_owned());
        self.give_orders();
        self.tell_supervisor(StreamState::Trouble {
            reason: reason.to_owned(),
        });
    }

    /// Trouble with the examination does not stop what is known to work: rows go
    /// on to the writers, whose calls will tell.
    pub(super) fn cannot_be_examined(&mut self, reason: String) {
        if self.trouble.as_ref() == Some(&reason) {
            return;
        }
        let stream = &self.parts.stream;
        tracing::warn!(%stream, %reason, "the stream cannot be examined; trying again");
        if self.stopped.is_none() {
            self.show_problem(&reason);
        }
        self.trouble = Some(reason.clone());
        if self.known.is_none() {
            self.tell_supervisor(StreamState::Trouble { reason });
        }
    }

    fn show_problem(&self, reason: &str) {
        let stream = &self.parts.stream;
        self.parts.board.update_stream(stream.label(), |entry| {
            entry.name = Arc::clone(stream.name());
            entry.problem = Some(reason.to_owned());
        });
    }

    /// Tells the supervisor what rows are routed by, when that has changed.
    pub(super) fn announce(&mut self) {
        let Some(known) = self.known.as_ref().filter(|_| self.stopped.is_none()) else {
            return;
        };
        let map = Arc::clone(known.routing.map());
        if let Some(StreamState::Ready {
            identity: told_identity,
            map: told_map,
            max_record_bytes: told_limit,
        }) = &self.announced
            && Arc::ptr_eq(told_map, &map)
            && *told_identity == known.identity
            && *told_limit == known.max_record_bytes
        {
            return;
        }
        let state = StreamState::Ready {
            identity: Arc::clone(&known.identity),
            map: Arc::clone(&map),
            max_record_bytes: known.max_record_bytes,
        };
        let label = self.parts.stream.label();
        self.parts.board.update_stream(label, |entry| {
            let mut shown = std::mem::take(&mut entry.shards);
            let mut status = |shard: &Shard| {
                let place = shown.iter().position(|one| one.id == shard.id.0);
                let fresh = || ShardStatus {
                    id: Arc::clone(&shard.id.0),
                    ..ShardStatus::default()
                };
                let mut entry = place.map_or_else(fresh, |place| shown.swap_remove(place));
                entry.hash_range = Some(shard.range.into());
                entry
            };
            entry.shards = map.shards().iter().map(&mut status).collect();
        });
        self.announced = Some(state.clone());
        self.tell_supervisor(state);
    }

    fn tell_supervisor(&self, state: StreamState) {
        let stream = self.parts.stream.clone();
        let changed = StreamChanged {
            stream,
            incarnation: self.parts.incarnation,
            state,
        };
        if self.parts.supervisor.try_send(changed).is_err() {
            tracing::debug!("the supervisor is gone");
        }
    }
}
