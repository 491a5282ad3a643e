//! Relays on one database, reached directly or through a pooler.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use sqlx::PgPool;
use tidegate::demo::load::{Load, OutboxLoad};
use tokio::time::Instant;

use crate::relay::Relay;
use crate::scenario::PATIENCE;
use crate::way::{Road, Way, name_in};
use crate::world::{STREAM, World};

/// A database with pipelines, and what relays need to run them.
pub(crate) struct Fleet {
    pub(crate) world: World,
    pub(crate) outboxes: Vec<String>,
    pub(crate) road: Road,
}

impl Fleet {
    /// A world with so many outboxes, each with a pipeline to the stream, whose
    /// leases keep a history.
    pub(crate) async fn new(way: Way, shards: u16, pipelines: usize) -> Self {
        let world = World::new(shards).await;
        let config = r#"{"sink_type":"kinesis","stream_name":"STREAM","region":"us-east-1","partition_key":"{dedup_key}"}"#;
        let config = config.replace("STREAM", STREAM);
        world
            .sql(&format!(
                "SELECT tide.outbox_create(o), tide.relay_set_outbox(o, o, '{config}') FROM (
                    SELECT 'o' || lpad(n::text, 3, '0') FROM generate_series(1, {pipelines}) AS n) AS all_of_them (o)"
            ))
            .await;
        crate::history::keep(&world.pool).await;
        Self {
            outboxes: (1..=pipelines).map(|n| format!("o{n:03}")).collect(),
            world,
            road: Road::new(way).await,
        }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.world.pool
    }

    /// Where relays find the database.
    pub(crate) fn url(&self) -> String {
        self.road.url(name_in(&self.world.url))
    }

    /// The environment of a relay that reaches the database by this URL.
    pub(crate) fn settings_at(&self, url: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
        self.settings_by(&self.road.section("default", url), more)
    }

    /// The environment of a relay with a file of this text.
    pub(crate) fn settings_by(&self, text: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let path = self.road.file(text);
        let emulator = self.world.emulator.environment().into_iter();
        let emulator = emulator.map(|(name, value)| (name.to_owned(), value));
        let ours = [
            ("TIDEGATE_CONFIG", path.as_str()),
            ("TIDEGATE__ADMIN__LISTEN", "127.0.0.1:0"),
        ];
        let ours = ours.iter().chain(more);
        let ours = ours.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        emulator.chain(ours).collect()
    }

    /// Starts a relay with default settings.
    pub(crate) async fn node(&self) -> Relay {
        self.node_with(&[]).await
    }

    pub(crate) async fn node_with(&self, more: &[(&str, &str)]) -> Relay {
        self.node_by(&self.settings_at(&self.url(), more)).await
    }

    pub(crate) async fn node_by(&self, settings: &[(String, String)]) -> Relay {
        self.world.keeps_book_of(Relay::start(settings).await)
    }

    /// A publisher in every outbox, each with so many rows a second.
    pub(crate) async fn load(&self, rows_per_second: f64) -> Load {
        let outboxes = self.outboxes.iter().map(|outbox| OutboxLoad {
            workers: 1,
            keys: 5,
            rows_per_second: Some(rows_per_second),
            ..OutboxLoad::new(outbox)
        });
        self.world.load(outboxes.collect(), fastrand::u64(..)).await
    }

    /// How many pipelines each node has, by the leases that run.
    pub(crate) async fn held(&self) -> BTreeMap<String, i64> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT owner, count(*) FROM tide.relay_lease WHERE expires_at > clock_timestamp() GROUP BY owner",
        )
        .fetch_all(self.pool())
        .await
        .expect("leases");
        rows.into_iter().collect()
    }

    /// Waits until all pipelines are with these nodes, as evenly as can be, and each
    /// node knows it.
    pub(crate) async fn balanced(&self, nodes: &[&Relay]) {
        let names: Vec<String> = nodes.iter().map(|node| name_of(node)).collect();
        let (least, more) = (
            self.outboxes.len() / nodes.len(),
            self.outboxes.len() % nodes.len(),
        );
        let mut wanted = vec![least as i64; nodes.len()];
        for part in wanted.iter_mut().take(more) {
            *part += 1;
        }
        wanted.sort_unstable();
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            let held = self.held().await;
            let mut parts: Vec<i64> = names
                .iter()
                .map(|name| held.get(name).copied().unwrap_or_default())
                .collect();
            parts.sort_unstable();
            let is_alone = held.keys().all(|owner| names.contains(owner));
            let know = || {
                nodes.iter().all(|node| {
                    let cluster = cluster_of(node);
                    let all = cluster["nodes"].as_array().map_or(0, Vec::len);
                    all == nodes.len() && cluster["held"] == cluster["target"]
                })
            };
            if parts == wanted && is_alone && know() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{held:?} is not {wanted:?} of {names:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What a relay is called in leases.
pub(crate) fn name_of(relay: &Relay) -> String {
    let name = relay.status()["node"].as_str().map(str::to_owned);
    name.expect("a name")
}

/// The nodes of its first database, as a relay sees them.
pub(crate) fn cluster_of(relay: &Relay) -> Value {
    relay.status()["databases"][0]["cluster"].clone()
}
