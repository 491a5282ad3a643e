//! One call's connection.
//!
//! A pooler that shares sessions may give every transaction another server
//! connection, and preparing and running a statement are two steps: there each
//! call is a transaction of its own. Otherwise a call is a plain statement.

use sqlx::pool::PoolConnection;
use sqlx::{Connection, PgConnection, PgPool, Postgres, Transaction};

use super::pool;
use super::server::{IS_STANDBY, ServerWatch, standby};
use crate::core::ports::StoreError;

/// A connection for one call. Dropped without [`Session::finish`], it rolls
/// back.
pub(super) enum Session {
    /// Statements commit by themselves.
    Statements(PoolConnection<Postgres>),
    /// Statements commit together.
    Transaction(Transaction<'static, Postgres>),
}

impl Session {
    /// A connection for one statement, to a primary.
    pub(super) async fn for_statement(
        pool: &PgPool,
        watch: &ServerWatch,
        own_sessions: bool,
    ) -> Result<Self, StoreError> {
        if own_sessions {
            let mut connection = pool::acquire(pool).await?;
            if watch.is_standby() || watch.is_in_doubt() && meets_standby(&mut connection).await? {
                return Err(standby());
            }
            return Ok(Self::Statements(connection));
        }
        Self::for_transaction(pool, watch, own_sessions).await
    }

    /// A connection to a primary for several statements that commit together.
    pub(super) async fn for_transaction(
        pool: &PgPool,
        watch: &ServerWatch,
        own_sessions: bool,
    ) -> Result<Self, StoreError> {
        let mut transaction = pool::begin(pool).await?;
        let asks = !own_sessions || watch.is_in_doubt();
        let is_standby = own_sessions && watch.is_standby();
        if is_standby || asks && meets_standby(&mut transaction).await? {
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

async fn meets_standby(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let answer = sqlx::query_scalar(IS_STANDBY).persistent(false);
    Ok(answer.fetch_one(connection).await?)
}
