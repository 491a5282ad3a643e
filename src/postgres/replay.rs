//! Replays as rows of `tide.relay_replay`, and the rows they name.
//!
//! Progress is fenced like a position: the statement that writes it locks the
//! pipeline's position under the epoch it names.

use sqlx::PgPool;

use super::reading::{most_text, read_rows};
use super::store::PgOutboxStore;
use super::windows::READ_AGAIN;
use crate::core::page::RowPage;
use crate::core::ports::{Epoch, StoreError};
use crate::core::position::RowId;
use crate::core::resend::{AgainRequest, ReplayProgress, ReplayRequest, ReplayWrite};

/// From pipeline to pipeline through the indexes of what is open.
const WANTED: &str = "
WITH RECURSIVE with_letters AS (
    SELECT (SELECT min(d.pipeline) FROM tide.relay_dead_letter AS d WHERE d.state = 'retry') AS pipeline
    UNION ALL
    SELECT (SELECT min(d.pipeline) FROM tide.relay_dead_letter AS d
        WHERE d.state = 'retry' AND d.pipeline > w.pipeline)
    FROM with_letters AS w WHERE w.pipeline IS NOT NULL
)
SELECT q.pipeline FROM tide.relay_replay AS q WHERE q.state IN ('queued', 'running')
UNION
SELECT w.pipeline FROM with_letters AS w WHERE w.pipeline IS NOT NULL";

/// A request of an outbox that was dropped since is no longer carried out.
const NEXT: &str = "
SELECT q.replay_id, q.from_id, q.to_id, q.next_id, q.sent, q.skipped
FROM tide.relay_replay AS q
JOIN tide.relay_position AS p ON p.pipeline = q.pipeline AND p.outbox_id = q.outbox_id
WHERE q.pipeline = $1 AND p.epoch = $2 AND q.state IN ('queued', 'running')
ORDER BY q.replay_id LIMIT 1";

/// Repeated, or done late behind a newer one, it changes nothing.
const SAVE: &str = "
WITH owner AS (
    SELECT p.epoch FROM tide.relay_position AS p WHERE p.pipeline = $1 AND p.epoch = $2 FOR SHARE
), written AS (
    UPDATE tide.relay_replay AS q
    SET next_id = greatest(q.next_id, $4), sent = greatest(q.sent, $5), skipped = greatest(q.skipped, $6),
        state = CASE WHEN $7 THEN 'done' ELSE 'running' END, updated_at = clock_timestamp(),
        finished_at = CASE WHEN $7 THEN coalesce(q.finished_at, clock_timestamp()) END
    FROM owner
    WHERE q.pipeline = $1 AND q.replay_id = $3 AND (q.state IN ('queued', 'running') OR q.state = 'done' AND $7)
    RETURNING q.replay_id
)
SELECT EXISTS (SELECT FROM owner), EXISTS (SELECT FROM written)";

pub(super) async fn wanted(store: &PgOutboxStore) -> Result<Vec<String>, StoreError> {
    let mut session = store.statement().await?;
    let pipelines = sqlx::query_scalar(WANTED)
        .persistent(store.prepares())
        .fetch_all(session.connection())
        .await?;
    session.finish().await?;
    Ok(pipelines)
}

pub(super) async fn next(
    store: &PgOutboxStore,
    pipeline: &str,
    epoch: Epoch,
) -> Result<Option<ReplayRequest>, StoreError> {
    let mut session = store.statement().await?;
    let found: Option<(i64, i64, i64, i64, i64, i64)> = sqlx::query_as(NEXT)
        .bind(pipeline)
        .bind(epoch.0)
        .persistent(store.prepares())
        .fetch_optional(session.connection())
        .await?;
    session.finish().await?;
    let count = |rows: i64| u64::try_from(rows).unwrap_or(0);
    Ok(
        found.map(|(id, from, to, next, sent, skipped)| ReplayRequest {
            id,
            from,
            to,
            next,
            sent: count(sent),
            skipped: count(skipped),
        }),
    )
}

pub(super) async fn read_again(
    store: &PgOutboxStore,
    request: &AgainRequest,
) -> Result<RowPage, StoreError> {
    let bound = request.bound;
    let statement = sqlx::query(READ_AGAIN)
        .bind(request.outbox.0)
        .bind(request.after)
        .bind(request.to)
        .bind(request.seen.to_string())
        .bind(i64::from(bound.rows))
        .bind(&*request.pipeline)
        .bind(most_text(bound.bytes))
        .persistent(store.prepares());
    read_rows(store.statement().await?, statement, bound.bytes).await
}

pub(super) async fn save(
    store: &PgOutboxStore,
    pipeline: &str,
    epoch: Epoch,
    progress: &ReplayProgress,
) -> Result<ReplayWrite, StoreError> {
    let count = |rows: u64| i64::try_from(rows).unwrap_or(i64::MAX);
    let mut session = store.statement().await?;
    let (owned, written): (bool, bool) = sqlx::query_as(SAVE)
        .bind(pipeline)
        .bind(epoch.0)
        .bind(progress.request)
        .bind(progress.next)
        .bind(count(progress.sent))
        .bind(count(progress.skipped))
        .bind(progress.done)
        .persistent(store.prepares())
        .fetch_one(session.connection())
        .await?;
    session.finish().await?;
    Ok(match (owned, written) {
        (false, _) => ReplayWrite::Stale,
        (true, false) => ReplayWrite::Cancelled,
        (true, true) => ReplayWrite::Written,
    })
}

// === For the command ===

/// An error of the database with its hint: it says what to do.
pub(super) fn said(error: sqlx::Error) -> StoreError {
    let hint = error.as_database_error().and_then(|database| {
        let database = database.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()?;
        let hint = database.hint()?;
        Some(format!("{} ({hint})", database.message()))
    });
    hint.map_or_else(|| error.into(), StoreError::Refused)
}

/// What a replay of these rows would do, as `tide.relay_replay_plan()` says it.
///
/// # Errors
/// The database does not answer, or refuses the range, saying why.
pub async fn plan_replay(
    pool: &PgPool,
    pipeline: &str,
    from: RowId,
    to: RowId,
) -> Result<serde_json::Value, StoreError> {
    let plan: String = sqlx::query_scalar("SELECT tide.relay_replay_plan($1, $2, $3)::text")
        .bind(pipeline)
        .bind(from)
        .bind(to)
        .persistent(false)
        .fetch_one(pool)
        .await
        .map_err(said)?;
    serde_json::from_str(&plan).map_err(|error| StoreError::Refused(error.to_string()))
}

/// Asks for a replay; answers its id.
///
/// # Errors
/// The database does not answer, or refuses the range, saying why.
pub async fn request_replay(
    pool: &PgPool,
    pipeline: &str,
    from: RowId,
    to: RowId,
) -> Result<i64, StoreError> {
    sqlx::query_scalar("SELECT tide.relay_replay($1, $2, $3)")
        .bind(pipeline)
        .bind(from)
        .bind(to)
        .persistent(false)
        .fetch_one(pool)
        .await
        .map_err(said)
}

/// Ends the replays of a pipeline; answers how many were queued or running.
///
/// # Errors
/// The database does not answer, or the pipeline does not exist.
pub async fn cancel_replays(pool: &PgPool, pipeline: &str) -> Result<i32, StoreError> {
    sqlx::query_scalar("SELECT tide.relay_replay_cancel($1)")
        .bind(pipeline)
        .persistent(false)
        .fetch_one(pool)
        .await
        .map_err(said)
}

/// A replay as it stands.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ReplayStanding {
    /// `queued`, `running`, `done` or `cancelled`.
    pub state: String,
    /// As [`ReplayRequest::next`].
    pub next_id: RowId,
    /// Rows confirmed so far.
    pub sent: i64,
    /// Rows that cannot be sent.
    pub skipped: i64,
}

/// How a replay stands.
///
/// # Errors
/// The database does not answer, or there is no such replay.
pub async fn replay_standing(pool: &PgPool, replay: i64) -> Result<ReplayStanding, StoreError> {
    sqlx::query_as(
        "SELECT q.state, q.next_id, q.sent, q.skipped FROM tide.relay_replay AS q WHERE q.replay_id = $1",
    )
    .bind(replay)
    .persistent(false)
    .fetch_one(pool)
    .await
    .map_err(said)
}
