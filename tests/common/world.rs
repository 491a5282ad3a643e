//! A database with schema `tide`, an emulator with a stream, and a consumer that
//! reads it: everything round a relay.
//!
//! When a world ends, its books are compared (see [`books`]): every test that has
//! one checks that nothing is missing in SQL, metrics and stream.
#![allow(dead_code, reason = "each test binary uses a part of it")]

#[path = "books.rs"]
mod books;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use tidegate::demo::consumer::{Arrived, StreamConsumer};
use tidegate::demo::delivered::{Delivered, EventId};
use tidegate::demo::emulator::{Emulator, EmulatorOptions};
use tidegate::demo::faults::{Applied, CallFault, Often, Operation};
use tidegate::demo::load::{Load, LoadOptions, LoadReport, OutboxLoad};
use tidegate::demo::verdict::{Committed, Verdict, consume_by_seq, judge};
use tokio::time::Instant;

use crate::database;
use crate::relay::{Ledger, Relay};
use crate::scenario::{PATIENCE, until};

/// The stream of every world.
pub(crate) const STREAM: &str = "tide-test";

/// How often an idle shard is read.
const READ_EVERY: Duration = Duration::from_millis(30);

/// Records that come late (of a call that was still under way) come within this.
const QUIET: Duration = Duration::from_millis(400);

/// What surrounds a relay.
pub(crate) struct World {
    /// The database's URL, for its owner.
    pub(crate) url: String,
    /// Connections to it.
    pub(crate) pool: PgPool,
    /// Kinesis.
    pub(crate) emulator: Emulator,
    /// The reader of [`STREAM`].
    pub(crate) consumer: StreamConsumer,
    arrived: Mutex<Vec<Arrived>>,
    ledger: Arc<Ledger>,
}

impl Drop for World {
    /// A test that fails has its own reason.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let runtime = tokio::runtime::Handle::current();
            tokio::task::block_in_place(|| runtime.block_on(books::compare(self)));
        }
    }
}

impl World {
    /// A migrated database on the server of the test process, and a stream of so
    /// many shards that enforces its limits.
    pub(crate) async fn new(shards: u16) -> Self {
        let name = database::migrated_database().await;
        let url = database::server().url_as(database::OWNER, &name);
        Self::at(url, shards, EmulatorOptions::default()).await
    }

    /// The same on a database of the caller's.
    pub(crate) async fn at(url: String, shards: u16, options: EmulatorOptions) -> Self {
        let pool = PgPoolOptions::new().max_connections(10);
        let pool = pool.connect_lazy(&url).expect("a URL");
        let emulator = Emulator::start(&options).expect("an emulator");
        if shards > 0 {
            emulator
                .create_stream(STREAM, shards)
                .await
                .expect("a stream");
        }
        let client = emulator.client().await.expect("a client");
        let consumer = StreamConsumer::start(client, STREAM, READ_EVERY);
        Self {
            url,
            pool,
            emulator,
            consumer,
            arrived: Mutex::default(),
            ledger: Arc::default(),
        }
    }

    /// A pipeline was disabled, and its counters went with it: at the end SQL and
    /// stream are compared alone.
    pub(crate) fn lost_counters(&self) {
        self.ledger.lost_counters();
    }

    // === SQL ===

    /// Runs statements; each must work.
    pub(crate) async fn sql(&self, sql: &str) {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&self.pool)
            .await;
        if let Err(error) = done {
            panic!("{sql}\n{error}");
        }
    }

    /// The one number of a query.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let number = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .fetch_one(&self.pool)
            .await;
        number.unwrap_or_else(|error| panic!("{sql}\n{error}"))
    }

    /// Makes an outbox.
    pub(crate) async fn outbox(&self, name: &str) {
        self.sql(&format!("SELECT tide.outbox_create('{name}')"))
            .await;
    }

    /// Makes an outbox and a pipeline of the same name from it to [`STREAM`].
    pub(crate) async fn pipeline(&self, name: &str, more: Value) {
        self.outbox(name).await;
        self.set_pipeline(name, name, more).await;
    }

    /// Sets a pipeline to [`STREAM`], with more keys of its definition.
    pub(crate) async fn set_pipeline(&self, name: &str, outbox: &str, more: Value) {
        let mut config = json!({
            "sink_type": "kinesis", "stream_name": STREAM, "region": "us-east-1",
            "partition_key": "{dedup_key}",
        });
        if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
            config.extend(more);
        }
        sqlx::query("SELECT tide.relay_set_outbox($1, $2, $3)")
            .bind(name)
            .bind(outbox)
            .bind(config)
            .execute(&self.pool)
            .await
            .expect("a pipeline");
    }

    /// Publishes a row; answers its id.
    pub(crate) async fn publish(&self, outbox: &str, key: &str, payload: Value) -> i64 {
        sqlx::query_scalar("SELECT tide.outbox_publish($1, $2, '{}', $3)")
            .bind(outbox)
            .bind(payload)
            .bind(key)
            .fetch_one(&self.pool)
            .await
            .expect("published")
    }

    /// Publishes `rows` rows under keys `k-0` to `k-{keys}` in turn, in one
    /// statement; answers the committed rows in order.
    pub(crate) async fn publish_many(
        &self,
        outbox: &str,
        rows: usize,
        keys: usize,
        payload_bytes: usize,
    ) -> Vec<Committed> {
        let ids: Vec<(i64, String)> = sqlx::query_as(
            "INSERT INTO tide.outbox_message (outbox_id, dedup_key, payload)
            SELECT o.outbox_id, 'k-' || n % $3, jsonb_build_object('n', n, 'text', repeat('x', $4))
            FROM tide.outbox AS o, generate_series(0, $2 - 1) AS n WHERE o.name = $1 ORDER BY n
            RETURNING id, dedup_key",
        )
        .bind(outbox)
        .bind(i32::try_from(rows).expect("few"))
        .bind(i32::try_from(keys).expect("few"))
        .bind(i32::try_from(payload_bytes).expect("few"))
        .fetch_all(&self.pool)
        .await
        .expect("published");
        ids.into_iter()
            .map(|(id, key)| Committed {
                outbox: outbox.into(),
                id,
                key: Some(key.into()),
                order: Some(id.unsigned_abs()),
            })
            .collect()
    }

    // === Relay and load ===

    /// The settings of a relay here, with more on top.
    pub(crate) fn settings(&self, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let emulator = self.emulator.environment().into_iter();
        let mut settings: Vec<(String, String)> = emulator
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let ours = [
            ("DATABASE_URL", self.url.as_str()),
            ("TIDEGATE__ADMIN__LISTEN", "127.0.0.1:0"),
            ("TIDEGATE__CLUSTER__LEASE", "2s"),
        ];
        let all = ours.iter().chain(more);
        settings.extend(all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        settings
    }

    /// Starts a relay with usual settings.
    pub(crate) async fn relay(&self) -> Relay {
        self.relay_with(&[]).await
    }

    /// Starts a relay with settings of its own.
    pub(crate) async fn relay_with(&self, more: &[(&str, &str)]) -> Relay {
        let relay = Relay::start(&self.settings(more)).await;
        relay.in_ledger(&self.ledger)
    }

    /// Has the last words of a relay that was started otherwise compared, too.
    pub(crate) fn keeps_book_of(&self, relay: Relay) -> Relay {
        relay.in_ledger(&self.ledger)
    }

    /// Has no PutRecords call answered until the faults are healed, nor applied: what
    /// becomes of its rows is in doubt, which a drain waits for. (What is refused for
    /// certain is left to the next owner.)
    pub(crate) fn answer_no_puts(&self) {
        let silence = CallFault::Hang {
            hold: PATIENCE,
            applied: Applied::Never,
        };
        self.emulator.tally().log_calls(1_000, false);
        let faults = self.emulator.faults();
        faults.inject(Operation::PutRecords, Often::Always, silence);
    }

    /// How many rows are in the calls since then, each a record of its own with a key of
    /// its own. Rows of one statement may go in two calls, and the second is not made
    /// before the first is answered.
    pub(crate) fn unanswered_rows(&self) -> usize {
        let calls = self.emulator.tally().logged_calls();
        let puts = calls
            .iter()
            .filter(|call| call.operation == Operation::PutRecords && !call.answered);
        let keys = puts.flat_map(|call| call.records.iter().map(|record| &record.key));
        keys.collect::<std::collections::BTreeSet<_>>().len()
    }

    /// Starts publishers.
    pub(crate) async fn load(&self, outboxes: Vec<OutboxLoad>, seed: u64) -> Load {
        self.load_with(LoadOptions::new(&self.url, outboxes, seed))
            .await
    }

    /// Starts publishers with options of their own.
    pub(crate) async fn load_with(&self, options: LoadOptions) -> Load {
        Load::start(options).await.expect("a load")
    }

    // === What arrived ===

    /// What has been read from the stream so far, in reading order.
    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        let mut arrived = self.arrived.lock().expect("not poisoned");
        arrived.extend(self.consumer.drain());
        arrived.clone()
    }

    /// Records that another consumer has read: of a stream that took the place of
    /// the world's own.
    pub(crate) fn has_arrived_elsewhere(&self, records: Vec<Arrived>) {
        self.arrived.lock().expect("not poisoned").extend(records);
    }

    /// The same, taken apart.
    pub(crate) fn delivered(&self) -> Vec<Delivered> {
        let parse = |arrived| Delivered::parse(arrived).expect("a native body");
        self.arrived().iter().map(parse).collect()
    }

    /// Waits until each of these rows has arrived.
    pub(crate) async fn wait_for(&self, rows: &[Committed], patience: Duration) {
        let event = |row: &Committed| (Arc::clone(&row.outbox), row.id);
        let mut missing: HashSet<EventId> = rows.iter().map(event).collect();
        let deadline = Instant::now() + patience;
        let mut looked_at = 0;
        loop {
            let new = {
                let mut arrived = self.arrived.lock().expect("not poisoned");
                arrived.extend(self.consumer.drain());
                let new = arrived[looked_at..].to_vec();
                looked_at = arrived.len();
                new
            };
            for record in &new {
                let record = Delivered::parse(record).expect("a native body");
                missing.remove(&record.event());
            }
            if missing.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{} of {} rows have not arrived within {patience:?}, such as {:?}",
                missing.len(),
                rows.len(),
                missing.iter().min(),
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until all these rows have arrived and nothing more comes, and judges
    /// what did.
    pub(crate) async fn judge(&self, rows: &[Committed]) -> Verdict {
        self.wait_for(rows, PATIENCE).await;
        let count = self.consumer.received();
        let is_quiet = self.consumer.wait_until_quiet(count, QUIET, PATIENCE).await;
        assert!(is_quiet, "records come without end");
        judge(rows, &self.delivered(), &self.consumer.ranges())
    }

    /// Waits until all these rows have arrived and nothing more comes, and asserts
    /// that they came in order, under a rising `seq`, and that a consumer that
    /// drops by `seq` has each of them. Answers how many were sent again.
    ///
    /// A crash of the server may take back which windows were open. Rows that were
    /// sent already may then come once more under a higher `seq`: never a lower
    /// one, which a consumer would drop.
    pub(crate) async fn judge_after_a_crash(&self, rows: &[Committed]) -> u64 {
        let verdict = self.judge(rows).await;
        let delivered = self.delivered();
        let mut seen = HashSet::new();
        let mut firsts = delivered.clone();
        firsts.retain(|record| seen.insert(record.event()));
        let of_firsts = judge(rows, &firsts, &self.consumer.ranges());
        assert!(of_firsts.is_clean(), "{of_firsts:#?}\n{verdict:#?}");
        let consumed: HashSet<EventId> = consume_by_seq(&delivered).into_iter().collect();
        assert_eq!(consumed, seen, "{verdict:#?}");
        eprintln!(
            "{} rows, {} sent again, {} of them under another seq",
            rows.len(),
            verdict.duplicates,
            verdict.seq_violations
        );
        verdict.duplicates
    }

    /// Ends a load, waits for all it committed, and asserts that no promise was
    /// broken.
    pub(crate) async fn settle(&self, load: Load) -> (LoadReport, Verdict) {
        let report = load.stop().await.expect("the books");
        let verdict = self.judge(&report.rows()).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        (report, verdict)
    }

    /// Waits until so many records have been read.
    pub(crate) async fn wait_until_received(&self, records: u64) {
        let what = format!("{records} records have arrived");
        until(&what, PATIENCE, || self.consumer.received() >= records).await;
    }
}
