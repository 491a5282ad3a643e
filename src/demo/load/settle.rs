//! Closes the books: what became of transactions whose COMMIT got no answer.
//!
//! A COMMIT may take effect after its connection was lost. So the look-up waits
//! until every connection of the load is gone from the server; from then on
//! nothing changes any more.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tokio::time::Instant;

use super::ledger::{Ledger, SentCommit};
use super::{LoadError, sql, worker};

/// How long the database may be away.
const PATIENCE: Duration = Duration::from_secs(60);

const LOOK_EVERY: Duration = Duration::from_millis(50);

const OTHER_CONNECTIONS: &str = "
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = current_setting('application_name') AND pid <> pg_backend_pid()";

const ROWS_OF_TRANSACTION: &str = "
    SELECT count(*) FROM tide.outbox_message AS m JOIN tide.outbox AS o USING (outbox_id)
    WHERE o.name = $1 AND m.id = ANY ($2) AND m.payload ->> 'transaction' = $3";

/// Finds out about every transaction whose outcome is not known.
pub(super) async fn settle(ledger: &Ledger, connect: &PgConnectOptions) -> Result<(), LoadError> {
    let unknown = ledger.unknown();
    if unknown.is_empty() {
        return Ok(());
    }
    let mut connection = connect_patiently(connect).await?;
    wait_for_others(&mut connection).await?;
    for (number, commit) in unknown {
        let has_committed = is_there(&mut connection, &commit).await?;
        ledger.count(|counts| {
            counts.unknown_outcomes += 1;
            counts.unknown_committed += u64::from(has_committed);
        });
        if has_committed {
            ledger.has_committed(number);
        } else {
            ledger.has_not_committed(number);
        }
    }
    worker::close(connection).await;
    Ok(())
}

async fn connect_patiently(connect: &PgConnectOptions) -> Result<PgConnection, LoadError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match connect.connect().await {
            Ok(connection) => return Ok(connection),
            Err(_) if Instant::now() < deadline => tokio::time::sleep(LOOK_EVERY).await,
            Err(error) => return Err(sql("close its books")(error)),
        }
    }
}

async fn wait_for_others(connection: &mut PgConnection) -> Result<(), LoadError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let count: i64 = sqlx::query_scalar(OTHER_CONNECTIONS)
            .fetch_one(&mut *connection)
            .await
            .map_err(sql("close its books"))?;
        if count == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(LoadError::StillOpen {
                count,
                patience: PATIENCE,
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn is_there(connection: &mut PgConnection, commit: &SentCommit) -> Result<bool, LoadError> {
    let ids: Vec<i64> = commit.rows.iter().map(|row| row.id).collect();
    let found: i64 = sqlx::query_scalar(ROWS_OF_TRANSACTION)
        .bind(&*commit.outbox)
        .bind(ids)
        .bind(&commit.token)
        .fetch_one(connection)
        .await
        .map_err(sql("close its books"))?;
    let found = usize::try_from(found).unwrap_or_default();
    if found > 0 && found < commit.rows.len() {
        return Err(LoadError::Torn {
            token: commit.token.clone(),
            outbox: commit.outbox.to_string(),
            found,
            rows: commit.rows.len(),
        });
    }
    Ok(found > 0)
}
