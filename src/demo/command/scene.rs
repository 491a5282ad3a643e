//! Everything the demo runs against, made from nothing.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, Executor};

use super::live::Printer;
use super::{Chaos, DemoError, DemoOptions};
use crate::demo::consumer::StreamConsumer;
use crate::demo::emulator::{Emulator, EmulatorOptions};
use crate::demo::load::{LoadOptions, OutboxLoad, TransactionSize};
use crate::demo::private_postgres::{PrivatePostgres, PrivatePostgresOptions};
use crate::demo::relay_process::RelayProcess;

/// The stream.
pub(super) const STREAM: &str = "pg-tide-events";

/// Its shards.
pub(super) const SHARDS: u16 = 4;

/// The outbox whose tenant publishes more than its share.
pub(super) const FLOOD: &str = "shop-flood";

/// How many pipelines there are.
pub(super) const PIPELINES: usize = 3;

/// What a user types.
pub(super) const PAGE_SQL: &str = r#"SELECT tide.outbox_create('events');

SELECT tide.relay_set_outbox('events-to-kinesis', 'events', 'kinesis-relay',
  '{"sink_type":"kinesis","stream_name":"pg-tide-events","region":"us-east-1","partition_key":"{dedup_key}"}'::jsonb);"#;

/// Two more tenants.
const TENANTS_SQL: &str = r#"
SELECT tide.outbox_create('billing');
SELECT tide.relay_set_outbox('billing-to-kinesis', 'billing',
  '{"sink_type":"kinesis","stream_name":"pg-tide-events","region":"us-east-1","tenant":"billing"}'::jsonb);
SELECT tide.outbox_create('shop-flood');
SELECT tide.relay_set_outbox('shop-flood-to-kinesis', 'shop-flood',
  '{"sink_type":"kinesis","stream_name":"pg-tide-events","region":"us-east-1","tenant":"shop-flood"}'::jsonb);"#;

/// How often the consumer asks a shard that has nothing more.
pub(super) const CONSUMER_POLL: Duration = Duration::from_millis(20);

/// The lease while the relay is killed: the shortest allowed. A relay that starts
/// after a SIGKILL waits for the lease of the one before.
const CHAOS_LEASE: &str = "1s";

/// Rows per second: the flood alone is more than the stream takes, which is
/// 4 x 1,000; what stays behind drains at about the difference afterwards.
const EVENTS_RATE: f64 = 300.0;
const BILLING_RATE: f64 = 200.0;
const FLOOD_RATE: f64 = 4200.0;

/// The servers, the relay and the consumer. Fields are dropped in this order.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) relay: RelayProcess,
    pub(super) consumer: StreamConsumer,
    pub(super) emulator: Emulator,
    database_url: String,
    _postgres: PrivatePostgres,
}

// === impl Scene ===

impl Scene {
    /// Starts the servers, makes the stream, installs the schema with the relay's
    /// own command, and makes outboxes and pipelines. The relay does not run yet.
    pub(super) async fn set_up(
        options: &DemoOptions,
        printer: &Printer,
    ) -> Result<Self, DemoError> {
        let postgres = tokio::task::spawn_blocking(|| {
            PrivatePostgres::start(PrivatePostgresOptions {
                durable: true,
                ..PrivatePostgresOptions::default()
            })
        });
        let postgres = postgres.await.map_err(|error| DemoError::System {
            doing: "start PostgreSQL",
            source: error.into(),
        })??;
        let database_url = postgres.create_database("app").await?;
        printer.line(&format!("postgres: private, {database_url}"));
        let emulator = Emulator::start(&EmulatorOptions::default())?;
        emulator.create_stream(STREAM, SHARDS).await?;
        printer.line(&format!(
            "kinesis: emulator on {}, stream {STREAM} with {SHARDS} shards of 1,000 records/s and 1 MiB/s",
            emulator.endpoint_url()
        ));
        let mut environment = vec![("DATABASE_URL".to_owned(), database_url.clone())];
        for (name, value) in emulator.environment() {
            environment.push((name.to_owned(), value));
        }
        if options.chaos == Chaos::Kill {
            environment.push((
                "TIDEGATE__CLUSTER__LEASE".to_owned(),
                CHAOS_LEASE.to_owned(),
            ));
            printer.line(&format!(
                "chaos: the relay is killed with SIGKILL {} times; its lease is {CHAOS_LEASE} in place of 4s, so that the next one takes over sooner",
                super::chaos::kills(options.seconds)
            ));
        }
        let relay = RelayProcess::new(options.program.clone(), environment)?;
        relay.command(&["migrate"])?;
        printer.line("relay: `tidegate migrate` has installed schema tide");
        set_up_pipelines(&database_url).await?;
        printer.line(&format!(
            "load: 8 publishers for {} s: events {EVENTS_RATE} and billing {BILLING_RATE} rows/s, \
             {FLOOD} {FLOOD_RATE} rows/s: together more than the stream takes, so a backlog of {FLOOD} \
             grows while they publish and drains afterwards",
            options.seconds
        ));
        let consumer = StreamConsumer::start(emulator.client().await?, STREAM, CONSUMER_POLL);
        Ok(Self {
            relay,
            consumer,
            emulator,
            database_url,
            _postgres: postgres,
        })
    }

    /// What the 8 publishers do.
    pub(super) fn load_options(&self, seed: u64) -> LoadOptions {
        let outbox = |name, workers, keys, rows_per_second| OutboxLoad {
            workers,
            keys,
            rows_per_second: Some(rows_per_second),
            ..OutboxLoad::new(name)
        };
        let outboxes = vec![
            outbox("events", 3, 100, EVENTS_RATE),
            outbox("billing", 2, 100, BILLING_RATE),
            OutboxLoad {
                size: TransactionSize::Bulk {
                    keys: 12,
                    rows_per_key: 4,
                },
                ..outbox(FLOOD, 3, 2000, FLOOD_RATE)
            },
        ];
        LoadOptions::new(&self.database_url, outboxes, seed)
    }
}

async fn set_up_pipelines(database_url: &str) -> Result<(), sqlx::Error> {
    let options: sqlx::postgres::PgConnectOptions = database_url.parse()?;
    let mut connection = options.disable_statement_logging().connect().await?;
    connection.execute(sqlx::raw_sql(PAGE_SQL)).await?;
    connection.execute(sqlx::raw_sql(TENANTS_SQL)).await?;
    connection.close().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_shows_the_same_sql() {
        let readme = include_str!("../../../README.md");
        assert!(readme.contains(PAGE_SQL), "the README and the demo differ");
    }
}
