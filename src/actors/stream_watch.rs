//! Watches all calls to a stream and shows what trouble it is in.
//!
//! A [`WatchedStream`] stands between the actors and the service: what it lets
//! through comes back unchanged, and how it ended goes to the stream's
//! [`StreamHealth`]. When that changes, status, metrics and log say so; readers
//! ask it why their rows do not flow.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;

use super::clock::Clock;
use super::stream_router::StreamKey;
use crate::admin::metrics::StreamMetrics;
use crate::admin::status::{StatusBoard, TroubleStatus};
use crate::core::classify::Action;
use crate::core::ports::{CallFailure, PutRecord, RecordOutcome, StreamDescription, StreamService};
use crate::core::shard_map::Shard;
use crate::core::stream_health::{Ended, StreamHealth, Trouble};
use crate::core::time::Moment;
use crate::core::trouble::TroubleKind;

/// The health of one stream, shared by all who need it.
#[derive(Debug)]
pub struct StreamWatch {
    stream: StreamKey,
    metrics: StreamMetrics,
    board: Arc<StatusBoard>,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    health: StreamHealth,
    shown: Vec<Trouble>,
    /// The stream is used no more; a late answer changes nothing.
    is_forgotten: bool,
}

/// A stream whose calls are watched.
pub struct WatchedStream {
    service: Arc<dyn StreamService>,
    watch: Arc<StreamWatch>,
}

// === impl StreamWatch ===

impl StreamWatch {
    /// A stream of which nothing is known yet.
    #[must_use]
    pub fn new(
        stream: StreamKey,
        metrics: StreamMetrics,
        board: Arc<StatusBoard>,
        clock: Clock,
    ) -> Self {
        Self {
            stream,
            metrics,
            board,
            clock,
            state: Mutex::default(),
        }
    }

    /// Why no record gets through, if none does.
    #[must_use]
    pub fn keeps_waiting(&self) -> Option<String> {
        let trouble = self.state().health.stops_records()?;
        let (stream, kind) = (&self.stream, trouble.kind.name());
        Some(format!("stream {stream}: {kind}: {}", trouble.reason))
    }

    /// Whether other credentials may mend what it suffers from.
    #[must_use]
    pub fn wants_credentials(&self) -> bool {
        let state = self.state();
        let mut kinds = state.shown.iter().map(|trouble| trouble.kind);
        kinds.any(TroubleKind::wants_credentials)
    }

    /// Takes its troubles out of the metrics: the stream is used no more.
    pub fn forget(&self) {
        let mut state = self.state();
        state.health = StreamHealth::default();
        self.show(&mut state);
        state.is_forgotten = true;
    }

    fn note(&self, action: Action, ended: Ended<'_>, began: Moment) {
        if let Ended::Badly(failure) = ended
            && let Some(kind) = TroubleKind::of(failure)
        {
            self.metrics.call_failed(kind);
        }
        let mut state = self.state();
        if state.is_forgotten {
            return;
        }
        state.health.note(action, ended, began, self.clock.now());
        self.show(&mut state);
    }

    fn show(&self, state: &mut State) {
        let troubles = state.health.troubles();
        if troubles == state.shown {
            return;
        }
        let before = std::mem::replace(&mut state.shown, troubles);
        let (stream, now) = (&self.stream, &state.shown);
        let (old, new) = (kinds_of(&before), kinds_of(now));
        for kind in new.difference(&old) {
            self.metrics.trouble(*kind, true);
        }
        for kind in old.difference(&new) {
            self.metrics.trouble(*kind, false);
            tracing::info!(%stream, kind = kind.name(), "the stream is out of trouble");
        }
        for trouble in now.iter().filter(|trouble| !before.contains(trouble)) {
            let (kind, call) = (trouble.kind.name(), trouble.action.iam());
            tracing::error!(%stream, kind, call, reason = %trouble.reason, "the stream is in trouble; nothing is dropped, trying again slowly");
        }
        let status = |trouble: &Trouble| TroubleStatus {
            kind: trouble.kind.name(),
            call: trouble.action.iam(),
            reason: trouble.reason.clone(),
        };
        // Other clients of the stream show theirs in the same place.
        self.board.update_stream(stream.label(), |entry| {
            entry.name = Arc::clone(stream.name());
            for over in before.iter().map(status) {
                let place = entry.troubles.iter().position(|shown| *shown == over);
                place.map(|place| entry.troubles.remove(place));
            }
            entry.troubles.extend(now.iter().map(status));
        });
    }

    // A panic while it was locked leaves at worst an old state.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kinds_of(troubles: &[Trouble]) -> BTreeSet<TroubleKind> {
    troubles.iter().map(|trouble| trouble.kind).collect()
}

// === impl WatchedStream ===

impl WatchedStream {
    /// The service, watched.
    #[must_use]
    pub fn new(service: Arc<dyn StreamService>, watch: Arc<StreamWatch>) -> Self {
        Self { service, watch }
    }
}

impl StreamService for WatchedStream {
    fn describe(&self) -> BoxFuture<'_, Result<StreamDescription, CallFailure>> {
        async move {
            let began = self.watch.clock.now();
            let result = self.service.describe().await;
            let ended = Ended::describe(&result);
            self.watch.note(Action::DescribeStreamSummary, ended, began);
            result
        }
        .boxed()
    }

    fn list_open_shards(&self) -> BoxFuture<'_, Result<Vec<Shard>, CallFailure>> {
        async move {
            let began = self.watch.clock.now();
            let result = self.service.list_open_shards().await;
            let ended = Ended::list(&result);
            self.watch.note(Action::ListShards, ended, began);
            result
        }
        .boxed()
    }

    fn put(
        &self,
        records: Vec<PutRecord>,
    ) -> BoxFuture<'_, Result<Vec<RecordOutcome>, CallFailure>> {
        async move {
            let began = self.watch.clock.now();
            let result = self.service.put(records).await;
            self.watch
                .note(Action::PutRecords, Ended::put(&result), began);
            result
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::actors::pulse::Pulse;
    use crate::actors::rest::{Heard, Rest};
    use crate::admin::metrics::Metrics;
    use crate::config::client_spec::{ClientSpec, CredentialSource};
    use crate::config::pipeline::{StreamRef, StreamTarget};
    use crate::core::snapshot::Snapshot;
    use crate::core::wait::Patience;
    use prometheus::Registry;

    /// The watch of stream `s` through one client.
    fn watch(region: &str, role: &str, metrics: &Metrics, board: &Arc<StatusBoard>) -> StreamWatch {
        let client = ClientSpec {
            region: Some(region.to_owned()),
            endpoint_url: None,
            credentials: CredentialSource::DefaultChain,
            role_arn: Some(format!("arn:aws:iam::123456789012:role/{role}")),
            external_id: None,
        };
        let stream = StreamRef::Name("s".to_owned());
        let key = StreamKey::new(&StreamTarget { client, stream });
        StreamWatch::new(key, metrics.stream("s"), Arc::clone(board), Clock::start())
    }

    #[tokio::test]
    async fn one_client_of_a_stream_leaves_the_troubles_of_another_shown() {
        let metrics = Metrics::new(Registry::new()).expect("fresh names");
        let board = Arc::new(StatusBoard::new("node".into()));
        let (one, other) = (
            watch("us-east-1", "one", &metrics, &board),
            watch("us-east-1", "other", &metrics, &board),
        );
        let shown = || -> Vec<&'static str> {
            let streams = board.status().streams;
            let troubles = streams.iter().flat_map(|stream| &stream.troubles);
            troubles.map(|trouble| trouble.kind).collect()
        };
        let failure = |code: &str| CallFailure::Operator {
            code: code.to_owned(),
            message: "no".to_owned(),
        };
        let denied = failure("AccessDeniedException");
        let missing = failure("ResourceNotFoundException");
        let now = one.clock.now();
        one.note(Action::PutRecords, Ended::Badly(&denied), now);
        other.note(Action::PutRecords, Ended::Badly(&missing), now);
        assert_eq!(shown(), ["access_denied", "stream_missing"]);
        one.note(Action::PutRecords, Ended::Well, one.clock.now());
        assert_eq!(shown(), ["stream_missing"]);
        one.note(Action::PutRecords, Ended::Badly(&missing), one.clock.now());
        one.forget();
        assert_eq!(shown(), ["stream_missing"]);
        other.forget();
        assert_eq!(shown(), [""; 0]);
        assert_eq!(board.status().streams.len(), 1, "it is one stream");
    }

    #[tokio::test]
    async fn streams_of_one_name_in_two_regions_are_two() {
        let metrics = Metrics::new(Registry::new()).expect("fresh names");
        let board = Arc::new(StatusBoard::new("node".into()));
        let (here, there) = (
            watch("eu-west-1", "r", &metrics, &board),
            watch("us-east-1", "r", &metrics, &board),
        );
        let denied = CallFailure::Operator {
            code: "AccessDeniedException".to_owned(),
            message: "no".to_owned(),
        };
        there.note(Action::PutRecords, Ended::Badly(&denied), there.clock.now());
        here.note(Action::PutRecords, Ended::Badly(&denied), here.clock.now());
        here.note(Action::PutRecords, Ended::Well, here.clock.now());
        let streams = board.status().streams;
        let shown: Vec<_> = streams
            .iter()
            .map(|stream| (&*stream.name, &*stream.key, stream.troubles.len()))
            .collect();
        assert_eq!(
            shown,
            [
                ("s", "eu-west-1/123456789012/s", 0),
                ("s", "us-east-1/123456789012/s", 1)
            ]
        );
    }

    #[tokio::test]
    async fn who_rests_has_to_look_when_nobody_vouches_for_it() {
        let metrics = Metrics::new(Registry::new()).expect("fresh names");
        let board = Arc::new(StatusBoard::new("node".into()));
        let stream = Arc::new(watch("us-east-1", "one", &metrics, &board));
        let pledge = Arc::new(());
        let heard = Arc::new(Heard::default());
        let now = stream.clock.now();
        heard.nothing_new(Snapshot::nothing(), now);
        let pulse = Pulse::new(Patience::of_timeout(Duration::ZERO));
        assert!(!pulse.must_look(now), "it looks by itself");
        assert_eq!(pulse.signs(), 0);
        pulse.rests(Rest {
            pledge: Arc::downgrade(&pledge),
            heard: Arc::clone(&heard),
            stream: Arc::clone(&stream),
        });
        assert!(!pulse.must_look(now));
        assert_eq!(pulse.signs(), 1, "all vouch for it");

        let denied = CallFailure::Operator {
            code: "AccessDeniedException".to_owned(),
            message: "no".to_owned(),
        };
        stream.note(Action::PutRecords, Ended::Badly(&denied), now);
        assert!(pulse.must_look(now), "its stream takes nothing");
        stream.note(Action::PutRecords, Ended::Well, stream.clock.now());
        assert!(!pulse.must_look(now));
        let later = now + Duration::from_secs(3);
        assert!(pulse.must_look(later), "the probe is silent");
        heard.nothing_new(Snapshot::nothing(), later);
        assert!(!pulse.must_look(later));
        assert_eq!(pulse.signs(), 3);
        drop(pledge);
        assert!(pulse.must_look(later), "the probe does not look");
        assert!(pulse.must_look(later), "until it stirs");
        assert_eq!(pulse.signs(), 3, "no sign of life meanwhile");
        pulse.stirs();
        assert!(!pulse.must_look(later));
    }
}
