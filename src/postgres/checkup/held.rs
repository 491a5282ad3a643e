//! What holds back what every later snapshot calls settled: open transactions,
//! prepared ones, replication slots.
//!
//! PostgreSQL tells when a transaction of another role began only to members of
//! `pg_read_all_stats`. Others learn it by a bound: every snapshot names the oldest
//! writing transaction, and the first message under a later transaction id was
//! inserted after that one had begun.

use sqlx::{PgPool, Row};

use super::question;
use crate::core::checkup::database::{OldTransaction, PreparedTransaction, Slot, TransactionFacts};
use crate::core::ports::StoreError;

const SEES_ALL: &str = "
SELECT bool_or(pg_has_role(current_user, r.oid, 'USAGE')) OR (SELECT u.rolsuper FROM pg_roles AS u WHERE u.rolname = current_user)
FROM pg_roles AS r WHERE r.rolname = 'pg_read_all_stats'";

/// A transaction that has written holds back every database of the server, one that
/// only reads its own. Vacuum's own are left out: they hold nothing back.
const OLDEST: &str = "
SELECT a.pid, concat_ws(', ', 'role ' || a.usename, nullif(a.application_name, ''), a.state, 'database ' || a.datname),
    extract(epoch FROM clock_timestamp() - a.xact_start)::float8
FROM pg_stat_activity AS a
WHERE a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL AND a.backend_type <> 'autovacuum worker'
    AND (a.backend_xid IS NOT NULL OR a.backend_xmin IS NOT NULL AND a.datname = current_database())
ORDER BY a.xact_start LIMIT 1";

const OLDEST_BY_BOUND: &str = "
SELECT l.pid, (
        SELECT greatest(0, extract(epoch FROM clock_timestamp() - min(first.created_at)))::float8
        FROM tide.outbox AS o CROSS JOIN LATERAL (
            SELECT m.created_at FROM tide.outbox_message AS m
            WHERE m.outbox_id = o.outbox_id AND m.xact > oldest.xid
            ORDER BY m.xact, m.id LIMIT 1
        ) AS first
    )
FROM (SELECT min(x.xid::text::numeric)::text::xid8 AS xid FROM pg_snapshot_xip(pg_current_snapshot()) AS x (xid)) AS oldest
LEFT JOIN pg_locks AS l ON l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock'
    AND l.transactionid::text::numeric = oldest.xid::text::numeric % 4294967296
WHERE oldest.xid IS NOT NULL LIMIT 1";

const PREPARED: &str = "
SELECT p.gid, p.database::text, extract(epoch FROM clock_timestamp() - p.prepared)::float8
FROM pg_prepared_xacts AS p";

const SLOTS: &str =
    "SELECT s.slot_name::text, s.active, age(s.xmin), s.wal_status FROM pg_replication_slots AS s";

/// The oldest open transaction.
///
/// # Errors
/// The database did not answer, or refused.
pub async fn transactions(pool: &PgPool) -> Result<TransactionFacts, StoreError> {
    let mut transaction = question(pool).await?;
    let sees_all: Option<bool> = sqlx::query_scalar(SEES_ALL)
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await?;
    let sees_all = sees_all.unwrap_or(false);
    let seen = sqlx::raw_sql(OLDEST)
        .fetch_optional(&mut *transaction)
        .await?;
    let mut oldest = None;
    if let Some(row) = seen {
        oldest = Some(OldTransaction {
            pid: row.try_get(0)?,
            who: row.try_get(1)?,
            seconds: row.try_get(2)?,
            at_least: false,
        });
    }
    if !sees_all
        && let Some(row) = sqlx::raw_sql(OLDEST_BY_BOUND)
            .fetch_optional(&mut *transaction)
            .await?
    {
        let pid: Option<i32> = row.try_get(0)?;
        let seconds: Option<f64> = row.try_get(1)?;
        let bounded = OldTransaction {
            pid,
            who: "of another role".to_owned(),
            seconds: seconds.unwrap_or(0.0),
            at_least: true,
        };
        let is_older = |seen: &OldTransaction| seen.pid == pid || seen.seconds >= bounded.seconds;
        if !oldest.as_ref().is_some_and(is_older) {
            oldest = Some(bounded);
        }
    }
    Ok(TransactionFacts { oldest, sees_all })
}

/// All prepared transactions of the server.
///
/// # Errors
/// The database did not answer, or refused.
pub async fn prepared(pool: &PgPool) -> Result<Vec<PreparedTransaction>, StoreError> {
    let mut transaction = question(pool).await?;
    let rows = sqlx::raw_sql(PREPARED).fetch_all(&mut *transaction).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        found.push(PreparedTransaction {
            gid: row.try_get(0)?,
            database: row.try_get(1)?,
            seconds: row.try_get(2)?,
        });
    }
    Ok(found)
}

/// All replication slots of the server.
///
/// # Errors
/// The database did not answer, or refused.
pub async fn slots(pool: &PgPool) -> Result<Vec<Slot>, StoreError> {
    let mut transaction = question(pool).await?;
    let rows = sqlx::raw_sql(SLOTS).fetch_all(&mut *transaction).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        found.push(Slot {
            name: row.try_get(0)?,
            active: row.try_get(1)?,
            xmin_age: row.try_get(2)?,
            wal_status: row.try_get(3)?,
        });
    }
    Ok(found)
}
