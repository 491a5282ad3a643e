//! A publisher mix that trips readers of outboxes, and exact books of what it
//! committed.
//!
//! Each publisher is a connection in a loop of transactions. A transaction locks
//! the row of its key (seldom of two), takes the key's next places, and publishes
//! events in that order; so the order of a key's events is total and known. What
//! trips readers:
//! - half of the transactions write something else first: they own an older
//!   transaction id than those they then wait for;
//! - pauses between insert and commit: ids and commits come in different orders;
//! - roll-backs, and savepoints rolled back with events inside: ids are missing;
//! - `outbox_publish_many`, events without a key, keys of several bytes a
//!   character;
//! - optionally a transaction held open for the whole run, and publishers of one
//!   key that do not lock it.
//!
//! Publishers survive the loss of their connection. A COMMIT whose outcome is not
//! known then is looked up when the load stops, never guessed.

mod ledger;
mod plan;
mod settle;
mod transaction;
mod worker;

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Executor};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use self::ledger::{CommittedRow, LoadCounts};

use self::ledger::Ledger;
use self::worker::{Stopping, Worker};
use super::verdict::Committed;

/// How often a waiting caller looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Whether publishers give the events of a key an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOrder {
    /// They lock the key's row first: the order is total and in the books.
    Locked,
    /// They do not: transactions of a key run at once, may commit in the other
    /// order than they inserted, and have no order in the books.
    Unlocked,
}

/// How much a transaction publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionSize {
    /// One to three events.
    Small,
    /// Several events of many keys, in one statement.
    Bulk {
        /// How many keys; at most those of the outbox.
        keys: usize,
        /// How many events each.
        rows_per_key: usize,
    },
}

/// What is published into one outbox.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxLoad {
    /// The outbox. It must exist.
    pub outbox: String,
    /// How many publishers at once.
    pub workers: usize,
    /// How many keys: `entity-0` and so on, the same in every outbox.
    pub keys: usize,
    /// The most rows committed in a second, by all of them; `None` for as many as
    /// they can.
    pub rows_per_second: Option<f64>,
    /// The length of a text in each payload, which is about 100 bytes longer.
    pub payload_bytes: usize,
    /// How much a transaction publishes.
    pub size: TransactionSize,
    /// Whether the events of a key have an order.
    pub key_order: KeyOrder,
}

impl OutboxLoad {
    /// Two publishers of small transactions on 20 keys, as fast as they can.
    #[must_use]
    pub fn new(outbox: &str) -> Self {
        Self {
            outbox: outbox.to_owned(),
            workers: 2,
            keys: 20,
            rows_per_second: None,
            payload_bytes: 100,
            size: TransactionSize::Small,
            key_order: KeyOrder::Locked,
        }
    }
}

/// How often transactions do what; shares are from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mix {
    /// Transactions that write something else before they lock.
    pub writes_first: f64,
    /// Transactions that roll back.
    pub rollbacks: f64,
    /// Small transactions on two keys.
    pub two_keys: f64,
    /// Small transactions that publish in one statement.
    pub publish_many: f64,
    /// Events inside a savepoint; half of these are rolled back and published
    /// again.
    pub savepoints: f64,
    /// Events of small transactions without a key.
    pub keyless: f64,
    /// The longest usual pause inside a transaction; a rare one is six times as
    /// long.
    pub longest_pause: Duration,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            writes_first: 0.5,
            rollbacks: 0.08,
            two_keys: 0.1,
            publish_many: 0.1,
            savepoints: 0.1,
            keyless: 0.02,
            longest_pause: Duration::from_millis(4),
        }
    }
}

/// What to publish, and where.
#[derive(Clone, PartialEq)]
pub struct LoadOptions {
    /// A database with schema `tide`. The load makes a schema `demo` of its own.
    pub database_url: String,
    /// What is published into each outbox.
    pub outboxes: Vec<OutboxLoad>,
    /// How often transactions do what.
    pub mix: Mix,
    /// What chance comes from.
    pub seed: u64,
    /// Whether a transaction that has an id is held open all the time.
    pub hold_open: bool,
}

impl LoadOptions {
    /// The usual mix into these outboxes.
    #[must_use]
    pub fn new(database_url: &str, outboxes: Vec<OutboxLoad>, seed: u64) -> Self {
        Self {
            database_url: database_url.to_owned(),
            outboxes,
            mix: Mix::default(),
            seed,
            hold_open: false,
        }
    }
}

/// Why the load does not run, or its books cannot be closed.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The database refused a statement that prepares or looks up.
    #[error("the load cannot {doing}: {source}")]
    Sql {
        /// What was being done.
        doing: &'static str,
        /// The database's word.
        source: sqlx::Error,
    },
    /// A publisher was refused something that time will not mend.
    #[error("{0}")]
    Refused(String),
    /// Fewer rows than wanted were committed in time.
    #[error("{published} of {wanted} rows were committed within {patience:?}")]
    TooSlow {
        /// How many were.
        published: u64,
        /// How many were wanted.
        wanted: u64,
        /// How long was waited.
        patience: Duration,
    },
    /// Of a transaction's rows only some are there.
    #[error("transaction {token} has {found} of its {rows} rows in outbox {outbox}")]
    Torn {
        /// The transaction's mark in its payloads.
        token: String,
        /// The outbox.
        outbox: String,
        /// How many rows are there.
        found: usize,
        /// How many it published.
        rows: usize,
    },
    /// Connections of the load did not end, so outcomes may still change.
    #[error("{count} connections of the load are still open after {patience:?}")]
    StillOpen {
        /// How many.
        count: i64,
        /// How long was waited.
        patience: Duration,
    },
}

fn sql(doing: &'static str) -> impl FnOnce(sqlx::Error) -> LoadError {
    move |source| LoadError::Sql { doing, source }
}

/// The closed books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadReport {
    /// Every committed row, exactly.
    pub committed: Vec<CommittedRow>,
    /// How often what happened.
    pub counts: LoadCounts,
}

impl LoadReport {
    /// The committed rows without their times, for [`super::verdict::judge`].
    #[must_use]
    pub fn rows(&self) -> Vec<Committed> {
        self.committed
            .iter()
            .map(|committed| committed.row.clone())
            .collect()
    }
}

/// A load that runs until it is stopped. Dropping it ends its publishers at once
/// and forgets the books.
pub struct Load {
    ledger: Arc<Ledger>,
    connect: PgConnectOptions,
    stopping: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The options to connect may hold a password.
        f.debug_struct("Load")
            .field("published", &self.published())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

// === impl Load ===

impl Load {
    /// Prepares the load's own tables and starts its publishers on the caller's
    /// runtime.
    ///
    /// # Errors
    /// [`LoadError::Sql`] when the URL is none, the database is away, or its own
    /// tables cannot be made.
    pub async fn start(options: LoadOptions) -> Result<Self, LoadError> {
        let run = format!("{:08x}", fastrand::u32(..));
        let connect = PgConnectOptions::from_str(&options.database_url)
            .map_err(sql("read the database URL"))?
            .application_name(&format!("tidegate-load-{run}"))
            .disable_statement_logging();
        prepare(&connect, &options.outboxes).await?;
        let ledger = Arc::new(Ledger::default());
        let (stopping, stopped) = watch::channel(false);
        let stopped = Stopping(stopped);
        let mut tasks = JoinSet::new();
        let mut random = fastrand::Rng::with_seed(options.seed);
        for load in &options.outboxes {
            for number in 0..load.workers {
                let worker = Worker {
                    name: format!("{run}-{}-{number}", load.outbox),
                    load: load.clone(),
                    mix: options.mix,
                    connect: connect.clone(),
                    random: random.fork(),
                    ledger: Arc::clone(&ledger),
                    stopping: stopped.clone(),
                };
                tasks.spawn(worker.run());
            }
        }
        if options.hold_open {
            tasks.spawn(worker::hold_open(connect.clone(), stopped));
        }
        Ok(Self {
            ledger,
            connect,
            stopping,
            tasks,
        })
    }

    /// How many rows are known to be committed.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.ledger.published()
    }

    /// The same, for each outbox that has any.
    #[must_use]
    pub fn published_by_outbox(&self) -> BTreeMap<Arc<str>, u64> {
        self.ledger.published_by_outbox()
    }

    /// How often what happened so far.
    #[must_use]
    pub fn counts(&self) -> LoadCounts {
        self.ledger.counts()
    }

    /// Why a publisher has given up for good, if one has.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.ledger.failure()
    }

    /// Waits until so many rows are known to be committed.
    ///
    /// # Errors
    /// [`LoadError::Refused`] when a publisher has given up for good,
    /// [`LoadError::TooSlow`] when `patience` is over.
    pub async fn wait_until_published(
        &self,
        wanted: u64,
        patience: Duration,
    ) -> Result<(), LoadError> {
        let deadline = Instant::now() + patience;
        loop {
            let published = self.published();
            if let Some(reason) = self.failure() {
                return Err(LoadError::Refused(reason));
            }
            if published >= wanted {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(LoadError::TooSlow {
                    published,
                    wanted,
                    patience,
                });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Lets every publisher finish its transaction, finds out what became of
    /// those whose COMMIT got no answer, and gives the books. The database must
    /// be there for that, or come back within a minute.
    ///
    /// # Errors
    /// A publisher has given up for good, or the books cannot be closed.
    pub async fn stop(mut self) -> Result<LoadReport, LoadError> {
        self.stopping.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                self.ledger
                    .fail(format!("a publisher ended early: {error}"));
            }
        }
        settle::settle(&self.ledger, &self.connect).await?;
        if let Some(reason) = self.ledger.failure() {
            return Err(LoadError::Refused(reason));
        }
        Ok(LoadReport {
            committed: self.ledger.take_committed(),
            counts: self.ledger.counts(),
        })
    }
}

async fn prepare(connect: &PgConnectOptions, outboxes: &[OutboxLoad]) -> Result<(), LoadError> {
    let mut connection = connect.connect().await.map_err(sql("connect"))?;
    connection
        .execute(transaction::PREPARE)
        .await
        .map_err(sql("make its tables"))?;
    for load in outboxes {
        let keys: Vec<String> = (0..load.keys).map(plan::key_name).collect();
        sqlx::query(transaction::ADD_ENTITIES)
            .bind(&load.outbox)
            .bind(keys)
            .execute(&mut connection)
            .await
            .map_err(sql("add its keys"))?;
    }
    worker::close(connection).await;
    Ok(())
}
