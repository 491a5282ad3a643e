//! Whether connections keep their server session, or a pooler gives sessions out per
//! transaction: told by what happens, since a pooler does not say.
//!
//! One connection notes its server process; another one opens a transaction, which
//! takes a session away from a pooler; then the first one looks again. Two connections
//! with one process, or one that changed it, share sessions. A pooler with many idle
//! sessions could hand each connection the same one as before, so several are tried.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Connection, PgPool, Postgres, Row};

use crate::core::checkup::database::Sessions;
use crate::core::ports::StoreError;
use crate::postgres::pool as connections;

/// How many other connections open a transaction.
const OTHERS: usize = 3;

/// A pooler without a free session makes a connection wait: that shows it as well.
const PATIENCE: Duration = Duration::from_secs(3);

const PROCESS: &str = "SELECT pg_backend_pid()";

/// Looks, on a pool of at least four connections.
///
/// # Errors
/// The database did not answer, or refused.
pub async fn look(pool: &PgPool) -> Result<Sessions, StoreError> {
    let mut first = connections::acquire(pool).await?;
    let before = process(&mut first).await?;
    let mut others = Vec::new();
    let mut found = Sessions::Own;
    for _ in 0..OTHERS {
        // No connection, or no session for it, says nothing of sharing by itself.
        let Ok(mut other) = connections::acquire(pool).await else {
            break;
        };
        let theirs = tokio::time::timeout(PATIENCE, async {
            sqlx::raw_sql("BEGIN").execute(&mut *other).await?;
            process(&mut other).await
        })
        .await;
        let is_met = matches!(theirs, Ok(Ok(theirs)) if theirs == before);
        others.push(other);
        if is_met {
            found = Sessions::Shared;
            break;
        }
        if theirs.is_err() {
            break;
        }
    }
    if found == Sessions::Own {
        match tokio::time::timeout(PATIENCE, process(&mut first)).await {
            Ok(after) => {
                if after? != before {
                    found = Sessions::Shared;
                }
            }
            Err(_) => found = Sessions::Shared,
        }
    }
    for connection in others.into_iter().chain([first]) {
        end(connection).await;
    }
    Ok(found)
}

/// The plain protocol, in one message: behind a shared pooler even a statement that is
/// prepared first would be two transactions.
async fn process(connection: &mut PoolConnection<Postgres>) -> Result<i32, StoreError> {
    let row = sqlx::raw_sql(PROCESS).fetch_one(&mut **connection).await?;
    Ok(row.try_get(0)?)
}

/// Closes a connection, and with it the transaction it may have open.
async fn end(connection: PoolConnection<Postgres>) {
    if let Err(error) = connection.detach().close().await {
        tracing::debug!(%error, "closing a connection");
    }
}
