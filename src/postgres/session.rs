//! One call's connection.
//!
//! A pooler that shares sessions may give every transaction another server
//! connection, and preparing and running a statement are two steps: there each
//! call is a transaction of its own. Otherwise a call is a plain statement.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Connection, PgConnection, PgPool, Postgres, Transaction};

use super::pool;
use super::server::{IS_STANDBY, ServerWatch, standby};
use crate::core::ports::StoreError;

/// The longest between two statements of a transaction on a shared session. A process
/// that freezes there, or whose host is lost, leaves its locks (a beat has those of all
/// its leases) to a server connection that the pooler keeps: they must be gone before
/// others want to take over, after `cluster.lease`.
const MOST_IDLE: Duration = Duration::from_secs(2);

/// Whether the server is a standby; sets the bounds of the transaction, but for those
/// that the role or the database has narrower.
const BOUND: &str = "
SELECT pg_is_in_recovery(), count(set_config(b.name, b.most, true))
FROM (VALUES ('statement_timeout', $1), ('lock_timeout', $2), ('idle_in_transaction_session_timeout', $3))
    AS b (name, most)
WHERE current_setting(b.name)::interval = interval '0'
    OR current_setting(b.name)::interval > b.most::interval";

/// A connection for one call. Dropped without [`Session::finish`], it rolls
/// back.
pub(super) enum Session {
    /// Statements commit by themselves.
    Statements(PoolConnection<Postgres>),
    /// Statements commit together.
    Transaction(Transaction<'static, Postgres>),
}

/// Where sessions are shared they cannot be set up, so each transaction is. Its bounds
/// are set with the question that it begins with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Manners {
    /// Sessions are the relay's own, and set up when they are made.
    OfSession,
    /// The longest a statement of a transaction may run.
    OfTransaction(Duration),
}

impl Session {
    /// A connection for one statement, to a primary.
    pub(super) async fn for_statement(
        pool: &PgPool,
        watch: &ServerWatch,
        manners: Manners,
    ) -> Result<Self, StoreError> {
        if matches!(manners, Manners::OfSession) {
            let mut connection = pool::acquire(pool).await?;
            if watch.is_standby() || watch.is_in_doubt() && meets_standby(&mut connection).await? {
                return Err(standby());
            }
            return Ok(Self::Statements(connection));
        }
        Self::for_transaction(pool, watch, manners).await
    }

    /// A connection to a primary for several statements that commit together.
    pub(super) async fn for_transaction(
        pool: &PgPool,
        watch: &ServerWatch,
        manners: Manners,
    ) -> Result<Self, StoreError> {
        let mut transaction = pool::begin(pool).await?;
        let is_standby = match manners {
            Manners::OfSession => {
                watch.is_standby() || watch.is_in_doubt() && meets_standby(&mut transaction).await?
            }
            Manners::OfTransaction(statement) => bound(&mut transaction, statement).await?,
        };
        if is_standby {
            return Err(standby());
        }
        Ok(Self::Transaction(transaction))
    }

    pub(super) fn connection(&mut self) -> &mut PgConnection {
        match self {
            Self::Statements(connection) => connection,
            Self::Transaction(transaction) => transaction,
        }
    }

    /// Whether the server's session is this call's alone, and may be closed.
    pub(super) const fn is_ours(&self) -> bool {
        matches!(self, Self::Statements(_))
    }

    /// Leaves a statement whose answer is not read to its end: closes the connection.
    pub(super) async fn abandon(self) {
        match self {
            Self::Statements(connection) => {
                if let Err(error) = connection.detach().close_hard().await {
                    tracing::debug!(%error, "closing a connection");
                }
            }
            Self::Transaction(transaction) => drop(transaction),
        }
    }

    /// Commits, if there is something to commit.
    pub(super) async fn finish(self) -> Result<(), StoreError> {
        match self {
            Self::Statements(_) => Ok(()),
            Self::Transaction(transaction) => Ok(transaction.commit().await?),
        }
    }
}

/// Bounds a transaction; answers whether it has met a standby.
async fn bound(connection: &mut PgConnection, statement: Duration) -> Result<bool, StoreError> {
    let milliseconds = |time: Duration| format!("{}ms", time.as_millis());
    let answer: (bool, i64) = sqlx::query_as(BOUND)
        .bind(milliseconds(statement))
        .bind(milliseconds(pool::longest_wait(statement)))
        .bind(milliseconds(MOST_IDLE.min(pool::longest_wait(statement))))
        .persistent(false)
        .fetch_one(connection)
        .await?;
    Ok(answer.0)
}

async fn meets_standby(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let answer = sqlx::query_scalar(IS_STANDBY).persistent(false);
    Ok(answer.fetch_one(connection).await?)
}
