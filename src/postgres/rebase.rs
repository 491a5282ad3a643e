//! Making the outboxes of a copied database deliverable again.
//!
//! The work is `tide.relay_rebase()`, whose comments and ADR 10 say how. Rules:
//! - an outbox is one transaction of one snapshot: all of it, or nothing;
//! - nobody is locked out: a conflict with another writer (a relay that is being
//!   stopped, a deletion) ends the attempt, and it is made again;
//! - there is no time-out: every message that is kept may have to be written.

use sqlx::{Executor, PgPool};

use super::pool as connections;
use super::replay::said;
use crate::core::ports::StoreError;

/// How often a rebase is tried that comes into conflict with another writer.
const ATTEMPTS: u32 = 5;

const OUTBOXES: &str = "
SELECT o.name FROM tide.outbox AS o
WHERE ($1::text IS NULL OR o.name = $1)
    AND ($2::text IS NULL
        OR o.outbox_id IN (SELECT p.outbox_id FROM tide.relay_position AS p WHERE p.pipeline = $2)
        OR o.name IN (SELECT r.outbox FROM tide.relay_pipeline AS r WHERE r.name = $2))
ORDER BY o.name";

const REBASE: &str = "SELECT tide.relay_rebase($1, $2)::text";

/// What a rebase did, or would do, to an outbox.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Rebased {
    /// The outbox.
    pub outbox: String,
    /// Whether there was anything to do.
    pub needed: bool,
    /// Messages kept in it.
    pub messages: u64,
    /// Of those, the ones that were written anew.
    pub rewritten: u64,
    /// Its pipelines, by name.
    pub pipelines: Vec<RebasedPipeline>,
}

/// What a rebase found of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct RebasedPipeline {
    /// The pipeline.
    pub pipeline: String,
    /// Messages kept that it has settled; they are not sent again.
    pub settled: u64,
    /// Messages that it will deliver.
    pub to_deliver: u64,
}

/// The outboxes with this name, or of this pipeline; all if neither is given.
///
/// # Errors
/// The database does not answer, or has no such schema.
pub async fn outboxes(
    pool: &PgPool,
    outbox: Option<&str>,
    pipeline: Option<&str>,
) -> Result<Vec<String>, StoreError> {
    let mut transaction = connections::begin(pool).await?;
    let names = sqlx::query_scalar(OUTBOXES)
        .bind(outbox)
        .bind(pipeline)
        .persistent(false)
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(names)
}

/// Rebases an outbox, or only says what that would do.
///
/// # Errors
/// The database refuses (a subscription still writes to it, somebody else keeps
/// writing the same rows) or does not answer. Nothing is changed then.
pub async fn rebase(pool: &PgPool, outbox: &str, dry_run: bool) -> Result<Rebased, StoreError> {
    let mut attempt = 1;
    loop {
        match rebase_once(pool, outbox, dry_run).await {
            Err(sqlx::Error::Database(error))
                if attempt < ATTEMPTS && error.code().as_deref() == Some("40001") =>
            {
                attempt += 1;
            }
            Err(error) => return Err(said(error)),
            Ok(text) => {
                return serde_json::from_str(&text).map_err(|error| {
                    StoreError::Refused(format!("tide.relay_rebase() answered {text:?}: {error}"))
                });
            }
        }
    }
}

async fn rebase_once(pool: &PgPool, outbox: &str, dry_run: bool) -> Result<String, sqlx::Error> {
    let mut transaction = pool
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await?;
    transaction
        .execute("SET LOCAL statement_timeout = 0; SET LOCAL enable_seqscan = on")
        .await?;
    let text: String = sqlx::query_scalar(REBASE)
        .bind(outbox)
        .bind(dry_run)
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(text)
}
