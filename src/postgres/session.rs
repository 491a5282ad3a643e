//! One call's connection.
//!
//! A pooler that shares sessions may give every transaction another server
//! connection, and preparing and running a statement are two steps: there each
//! call is a transaction of its own. Otherwise a call is a plain statement.

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

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
    /// A connection for one statement.
    pub(super) async fn for_statement(
        pool: &PgPool,
        own_sessions: bool,
    ) -> Result<Self, StoreError> {
        if own_sessions {
            return Ok(Self::Statements(pool.acquire().await?));
        }
        Self::for_transaction(pool).await
    }

    /// A connection for several statements that commit together.
    pub(super) async fn for_transaction(pool: &PgPool) -> Result<Self, StoreError> {
        Ok(Self::Transaction(pool.begin().await?))
    }

    pub(super) fn connection(&mut self) -> &mut PgConnection {
        match self {
            Self::Statements(connection) => connection,
            Self::Transaction(transaction) => transaction,
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
