//! The connections to one database: bounded in number and in time.
//!
//! Two ways to speak to it:
//! - directly, or through a pooler that keeps sessions: statements are prepared
//!   once, and the session is set up at connect;
//! - through a pooler that shares sessions between transactions: nothing may
//!   depend on a session, so nothing is prepared and nothing set up.
//!
//! A pool that gets no connection does not say why: it tries until its time is
//! up. `acquire` then asks once more by itself, so that the reason can be shown.

use std::str::FromStr;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgPool, Postgres, Transaction};

use super::server::ServerWatch;
use crate::core::ports::StoreError;

/// How `pg_stat_activity` shows the relay.
pub const APPLICATION_NAME: &str = "tidegate";

/// The longest wait for a lock, or between two statements of a transaction.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A connection idle for so long is tried before it is used.
const SUSPECT_AFTER: Duration = Duration::from_secs(10);

/// How to connect to a database.
#[derive(Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// A `postgres://` URL; what it leaves out comes from the `PG*` environment
    /// variables. It may hold a password: this type prints without it.
    pub url: String,
    /// The most connections ever open at once.
    pub max_connections: u32,
    /// How long to wait for a connection: a free one, or a new one to be made.
    pub acquire_timeout: Duration,
    /// How long the server lets one statement run before it cancels it. It must
    /// leave room for finding the bounds of a large window, about 0.1 s per
    /// million rows. Waiting for a lock, or for the relay's next statement inside
    /// a transaction, is cut off after 10 s, or four fifths of this if that is less.
    pub statement_timeout: Duration,
    /// Whether sessions are the relay's own: false behind a pooler in
    /// transaction mode. Queries on such a pool must say `persistent(false)` and
    /// run in a transaction, as those of this module do.
    pub own_sessions: bool,
}

impl PoolSettings {
    /// The settings for a URL with 8 connections, 5 s to get one, and 60 s for a
    /// statement.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            max_connections: 8,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(60),
            own_sessions: true,
        }
    }
}

impl std::fmt::Debug for PoolSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolSettings")
            .field("max_connections", &self.max_connections)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field("own_sessions", &self.own_sessions)
            .finish_non_exhaustive()
    }
}

/// Builds the pool; it connects when first used. Must be called on a tokio
/// runtime.
///
/// # Errors
/// [`StoreError::Refused`] if the URL is none. The database need not be there.
pub fn connect_lazily(settings: &PoolSettings) -> Result<PgPool, StoreError> {
    Ok(connect_watched(settings)?.0)
}

/// The same, and which server its connections meet.
///
/// # Errors
/// As for [`connect_lazily`].
pub fn connect_watched(settings: &PoolSettings) -> Result<(PgPool, ServerWatch), StoreError> {
    let options = connect_options(settings)?;
    let watch = ServerWatch::default();
    let (of_new, of_idle) = (watch.clone(), watch.clone());
    let pool = PgPoolOptions::new()
        .max_connections(settings.max_connections)
        .acquire_timeout(settings.acquire_timeout)
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let watch = of_new.clone();
            Box::pin(async move { watch.look(connection).await })
        })
        .before_acquire(move |connection, state| {
            let watch = of_idle.clone();
            Box::pin(async move {
                if !watch.trusts(state.age) {
                    // A new one is made, which looks at the server again.
                    return Ok(false);
                }
                if state.idle_for > SUSPECT_AFTER {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options);
    Ok((pool, watch))
}

/// How long the one connection may take that tells why a pool has none. With the
/// time a pool takes itself it stays below the 10 s of a call.
const EXPLANATION: Duration = Duration::from_secs(2);

/// A connection of the pool, or why there is none.
pub(super) async fn acquire(pool: &PgPool) -> Result<PoolConnection<Postgres>, StoreError> {
    match pool.acquire().await {
        Ok(connection) => Ok(connection),
        Err(sqlx::Error::PoolTimedOut) => Err(explain(pool).await),
        Err(error) => Err(error.into()),
    }
}

/// A transaction on a connection of the pool, or why there is none.
pub(super) async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, StoreError> {
    // A role or a database may have another default, and shared sessions keep it.
    match pool
        .begin_with("BEGIN ISOLATION LEVEL READ COMMITTED")
        .await
    {
        Ok(transaction) => Ok(transaction),
        Err(sqlx::Error::PoolTimedOut) => Err(explain(pool).await),
        Err(error) => Err(error.into()),
    }
}

async fn explain(pool: &PgPool) -> StoreError {
    let options = pool.connect_options();
    let attempt = async move { options.connect().await?.close().await };
    match tokio::time::timeout(EXPLANATION, attempt).await {
        Ok(Err(error)) => error.into(),
        Err(_) => StoreError::Unavailable(format!("no connection within {EXPLANATION:?}")),
        // It can be connected to: the pool's own connections are all at work.
        Ok(Ok(())) => sqlx::Error::PoolTimedOut.into(),
    }
}

/// The longest wait for a lock where statements may run for so long: less than that, so
/// that a lock is named as what was waited for.
pub(super) fn longest_wait(statement: Duration) -> Duration {
    (statement * 4 / 5).min(LONGEST_WAIT)
}

fn connect_options(settings: &PoolSettings) -> Result<PgConnectOptions, StoreError> {
    let options = PgConnectOptions::from_str(&settings.url).map_err(|error| {
        // The error of a URL parser does not repeat the URL, so no password.
        StoreError::Refused(format!(
            "the database URL is not understood: {error}; expected postgres://user:password@host:5432/database"
        ))
    })?;
    let options = options
        .application_name(APPLICATION_NAME)
        .disable_statement_logging();
    if !settings.own_sessions {
        return Ok(options);
    }
    let milliseconds = |time: Duration| time.as_millis().to_string();
    let statement = milliseconds(settings.statement_timeout);
    let wait = milliseconds(longest_wait(settings.statement_timeout));
    Ok(options.options([
        ("statement_timeout", statement.as_str()),
        ("lock_timeout", &wait),
        ("idle_in_transaction_session_timeout", &wait),
        ("default_transaction_isolation", "read committed"),
        // A statement prepared while the outbox is empty must not keep a plan
        // that walks the table once it is large.
        ("enable_seqscan", "off"),
        ("jit", "off"),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_url_is_refused_and_no_password_is_shown() {
        let settings = PoolSettings::new("postgres://me:sesame@host:notaport/db");
        let error = connect_options(&settings).expect_err("refused").to_string();
        assert!(error.contains("expected postgres://"), "{error}");
        assert!(!error.contains("sesame"), "{error}");
        assert!(!format!("{settings:?}").contains("sesame"));
    }

    #[test]
    fn shared_sessions_are_left_as_they_are() {
        let mut settings = PoolSettings::new("postgres://host/db");
        let own = connect_options(&settings).expect("options");
        assert!(
            own.get_options()
                .is_some_and(|options| options.contains("statement_timeout=60000"))
        );
        settings.own_sessions = false;
        let shared = connect_options(&settings).expect("options");
        assert_eq!(shared.get_options(), None);
    }
}
