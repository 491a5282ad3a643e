//! What `tidegate doctor` asks a database. Nothing is written, and nothing waits:
//! every question is a read-only transaction of its own, with time-outs of its own,
//! that is rolled back.
//!
//! Connections are made as behind a pooler in transaction mode, whatever the settings
//! say: so a database is looked into also when just that setting is wrong.

pub mod held;
pub mod nodes;
pub mod privileges;
pub mod rate;
pub mod sessions;
pub mod tables;

use std::time::{Duration, SystemTime};

use sqlx::{PgPool, Postgres, Row, Transaction};

use super::pool as connections;
use crate::core::checkup::database::ServerFacts;
use crate::core::ports::StoreError;

/// How long a question may take in all. The server ends its statements before.
const PATIENCE: Duration = Duration::from_secs(15);

/// `SET LOCAL` ends with the transaction, so this holds behind a pooler, too.
const SET_UP: &str = "SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = '10s'; \
    SET LOCAL lock_timeout = '2s'; SET LOCAL enable_seqscan = off";

const SERVER: &str = "
SELECT current_setting('server_version_num')::int, current_setting('server_version'), pg_is_in_recovery(),
    current_user::text";

const NOW: &str = "SELECT extract(epoch FROM clock_timestamp())::float8";

/// A transaction for one question. Dropped, it rolls back.
pub(super) async fn question(pool: &PgPool) -> Result<Transaction<'static, Postgres>, StoreError> {
    let mut transaction = connections::begin(pool).await?;
    sqlx::raw_sql(SET_UP).execute(&mut *transaction).await?;
    Ok(transaction)
}

/// Bounds a question in time.
///
/// # Errors
/// Its own, or [`StoreError::Unavailable`] when it takes too long.
pub async fn within<T>(
    question: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(PATIENCE, question)
        .await
        .unwrap_or_else(|_| {
            Err(StoreError::Unavailable(format!(
                "no answer within {PATIENCE:?}"
            )))
        })
}

/// Who answers.
///
/// # Errors
/// The database did not answer, or refused.
pub async fn server(pool: &PgPool) -> Result<ServerFacts, StoreError> {
    let mut transaction = question(pool).await?;
    let row = sqlx::raw_sql(SERVER).fetch_one(&mut *transaction).await?;
    Ok(ServerFacts {
        number: row.try_get(0)?,
        version: row.try_get(1)?,
        is_standby: row.try_get(2)?,
        role: row.try_get(3)?,
    })
}

/// By how many seconds this machine's clock is ahead of the database's, and how long
/// the round trip took that this was measured by.
///
/// # Errors
/// The database did not answer, or refused.
pub async fn clock(pool: &PgPool) -> Result<(f64, f64), StoreError> {
    let mut transaction = question(pool).await?;
    let before = since_1970();
    let theirs: f64 = sqlx::query_scalar(NOW)
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await?;
    let after = since_1970();
    Ok((f64::midpoint(before, after) - theirs, after - before))
}

fn since_1970() -> f64 {
    // A clock before 1970 is as wrong as one at it.
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
