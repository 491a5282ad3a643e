//! A publisher: one connection in a loop of transactions, through the loss of
//! its connection.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};
use tokio::sync::watch;
use tokio::time::Instant;

use super::ledger::{Ledger, SentCommit};
use super::plan::{Ending, Plan};
use super::transaction::{ADD_PUBLISHER, Transaction};
use super::{Mix, OutboxLoad};

/// The waits between tries to connect: from the first, doubled up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// A publisher that fell behind its rate by more than this does not catch up.
const MOST_CATCH_UP: Duration = Duration::from_secs(1);

/// How often a held transaction is asked whether it is still there.
const HELD_CHECK: Duration = Duration::from_millis(250);

/// Ends pauses when the load is to stop.
#[derive(Debug, Clone)]
pub(super) struct Stopping(pub(super) watch::Receiver<bool>);

impl Stopping {
    fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Sleeps, or less when the load is to stop.
    async fn sleep(&mut self, pause: Duration) {
        // An error says that the load was dropped: that is to stop, too.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _set_or_dropped = self.0.wait_for(|stopping| *stopping) => {}
        }
    }
}

/// What an error of the database means for a publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Another transaction won: this one is rolled back.
    Conflict,
    /// The connection is of no more use; another may be.
    Outage,
    /// It would be the same next time.
    Refused,
}

impl Trouble {
    fn of(error: &sqlx::Error) -> Self {
        let Some(refusal) = error.as_database_error() else {
            let is_outage = matches!(
                error,
                sqlx::Error::Io(_)
                    | sqlx::Error::Tls(_)
                    | sqlx::Error::Protocol(_)
                    | sqlx::Error::WorkerCrashed
            );
            return if is_outage {
                Self::Outage
            } else {
                Self::Refused
            };
        };
        let code = refusal.code().unwrap_or_default();
        match code.get(..2).unwrap_or_default() {
            // Serialisation failures and deadlocks.
            "40" => Self::Conflict,
            // Connections, resources, intervention of an operator, the system.
            "08" | "53" | "57" | "58" => Self::Outage,
            _ => Self::Refused,
        }
    }
}

/// A publisher.
pub(super) struct Worker {
    pub(super) name: String,
    pub(super) load: OutboxLoad,
    pub(super) mix: Mix,
    pub(super) connect: PgConnectOptions,
    pub(super) random: fastrand::Rng,
    pub(super) ledger: Arc<Ledger>,
    pub(super) stopping: Stopping,
}

// === impl Worker ===

impl Worker {
    /// Publishes until the load is to stop.
    pub(super) async fn run(mut self) {
        let mut pace = Pace::new(self.load.rows_per_second, self.load.workers);
        let outbox: Arc<str> = self.load.outbox.as_str().into();
        let filler = "x".repeat(self.load.payload_bytes);
        let mut number = 0_u64;
        let mut wait = FIRST_WAIT;
        while !self.stopping.is_set() {
            let error = match self.connect().await {
                Ok(mut connection) => {
                    let ended = self
                        .publish(
                            &mut connection,
                            &mut pace,
                            &outbox,
                            &filler,
                            &mut number,
                            &mut wait,
                        )
                        .await;
                    match ended {
                        Ok(()) => {
                            close(connection).await;
                            return;
                        }
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            if Trouble::of(&error) == Trouble::Refused {
                let reason = format!("publisher {} of {outbox}: {error}", self.name);
                self.ledger.fail(reason);
                return;
            }
            tracing::debug!(publisher = self.name, %error, "a publisher lost its connection");
            self.ledger.count(|counts| counts.reconnects += 1);
            self.stopping.sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.connect.connect().await?;
        let query = sqlx::query(ADD_PUBLISHER).bind(&self.name);
        query.execute(&mut connection).await?;
        Ok(connection)
    }

    async fn publish(
        &mut self,
        connection: &mut PgConnection,
        pace: &mut Pace,
        outbox: &Arc<str>,
        filler: &str,
        number: &mut u64,
        wait: &mut Duration,
    ) -> Result<(), sqlx::Error> {
        loop {
            self.stopping.sleep(pace.wait()).await;
            if self.stopping.is_set() {
                return Ok(());
            }
            let plan = Plan::draw(&mut self.random, &self.load, &self.mix);
            *number += 1;
            let token = format!("{}-{number}", self.name);
            let transaction = Transaction {
                load: &self.load,
                publisher: &self.name,
                token: &token,
                filler,
            };
            let rows = self
                .transact(connection, &plan, transaction, outbox)
                .await?;
            pace.published(rows);
            *wait = FIRST_WAIT;
        }
    }

    /// Runs a transaction to its end and gives how many rows it committed.
    async fn transact(
        &self,
        connection: &mut PgConnection,
        plan: &Plan,
        transaction: Transaction<'_>,
        outbox: &Arc<str>,
    ) -> Result<usize, sqlx::Error> {
        let published = match transaction.run(connection, plan).await {
            Ok(published) => published,
            Err(error) if Trouble::of(&error) == Trouble::Conflict => {
                connection.execute("ROLLBACK").await?;
                self.ledger.count(|counts| counts.conflicts += 1);
                return Ok(0);
            }
            Err(error) => return Err(error),
        };
        let undone = published.undone;
        self.ledger.count(|counts| counts.undone_rows += undone);
        let rows = published.rows.len();
        if plan.ending == Ending::Rollback {
            connection.execute("ROLLBACK").await?;
            self.ledger.count(|counts| {
                counts.rolled_back += 1;
                counts.undone_rows += rows as u64;
            });
            return Ok(0);
        }
        let sent = self.ledger.commit_is_sent(SentCommit {
            outbox: Arc::clone(outbox),
            token: transaction.token.to_owned(),
            rows: published.rows,
            sent_at: Instant::now(),
        });
        match connection.execute("COMMIT").await {
            Ok(_) => {
                self.ledger.has_committed(sent);
                Ok(rows)
            }
            // The server said no, in words.
            Err(error) if Trouble::of(&error) == Trouble::Conflict => {
                self.ledger.has_not_committed(sent);
                self.ledger.count(|counts| counts.conflicts += 1);
                Ok(0)
            }
            // Any other end leaves the outcome open, whatever the error says.
            Err(error) => Err(error),
        }
    }
}

/// Ends a connection in good form; it is of no more use either way.
pub(super) async fn close(connection: PgConnection) {
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "a connection was gone before it was closed");
    }
}

/// When the next transaction is due.
struct Pace {
    rows_per_second: Option<f64>,
    due: Instant,
}

impl Pace {
    /// A worker's part of a rate that so many share.
    fn new(rows_per_second: Option<f64>, workers: usize) -> Self {
        Self {
            rows_per_second: rows_per_second.map(|rate| rate / workers.max(1) as f64),
            due: Instant::now(),
        }
    }

    fn wait(&self) -> Duration {
        self.due.saturating_duration_since(Instant::now())
    }

    fn published(&mut self, rows: usize) {
        let now = Instant::now();
        if let Some(rate) = self.rows_per_second {
            self.due += Duration::try_from_secs_f64(rows as f64 / rate).unwrap_or_default();
        }
        if now.saturating_duration_since(self.due) > MOST_CATCH_UP {
            self.due = now;
        }
    }
}

/// Keeps a transaction open that has a transaction id and does nothing, and opens
/// another one when the server ends it.
pub(super) async fn hold_open(connect: PgConnectOptions, mut stopping: Stopping) {
    while !stopping.is_set() {
        let held = async {
            let mut connection = connect.connect().await?;
            connection.execute("BEGIN").await?;
            connection.execute("SELECT pg_current_xact_id()").await?;
            Ok::<_, sqlx::Error>(connection)
        };
        match held.await {
            Ok(mut connection) => {
                while !stopping.is_set() && connection.ping().await.is_ok() {
                    stopping.sleep(HELD_CHECK).await;
                }
                close(connection).await;
            }
            Err(error) => tracing::debug!(%error, "no transaction can be held open"),
        }
        stopping.sleep(FIRST_WAIT).await;
    }
}
