//! Replays as rows of `tide.relay_replay`, and the rows they name.
//!
//! Progress is fenced like a position: the statement that writes it locks the
//! pipeline's position under the epoch it names.

use super::store::PgOutboxStore;
use super::windows::{READ_AGAIN, decode_rows};
use crate::core::ports::{Epoch, StoreError};
use crate::core::resend::{AgainRequest, ReplayProgress, ReplayRequest, ReplayWrite};
use crate::core::row::OutboxRow;

const WANTED: &str = "
SELECT DISTINCT q.pipeline FROM tide.relay_replay AS q WHERE q.state IN ('queued', 'running')";

/// A request of an outbox that was dropped since is no longer carried out.
const NEXT: &str = "
SELECT q.replay_id, q.from_id, q.to_id, q.next_id
FROM tide.relay_replay AS q
JOIN tide.relay_position AS p ON p.pipeline = q.pipeline AND p.outbox_id = q.outbox_id
WHERE q.pipeline = $1 AND p.epoch = $2 AND q.state IN ('queued', 'running')
ORDER BY q.replay_id LIMIT 1";

const SAVE: &str = "
WITH owner AS (
    SELECT p.epoch FROM tide.relay_position AS p WHERE p.pipeline = $1 AND p.epoch = $2 FOR SHARE
), written AS (
    UPDATE tide.relay_replay AS q
    SET next_id = $4, sent = q.sent + $5, skipped = q.skipped + $6,
        state = CASE WHEN $7 THEN 'done' ELSE 'running' END,
        updated_at = clock_timestamp(), finished_at = CASE WHEN $7 THEN clock_timestamp() END
    FROM owner
    WHERE q.pipeline = $1 AND q.replay_id = $3 AND q.state IN ('queued', 'running')
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
    let found: Option<(i64, i64, i64, i64)> = sqlx::query_as(NEXT)
        .bind(pipeline)
        .bind(epoch.0)
        .persistent(store.prepares())
        .fetch_optional(session.connection())
        .await?;
    session.finish().await?;
    Ok(found.map(|(id, from, to, next)| ReplayRequest { id, from, to, next }))
}

pub(super) async fn read_again(
    store: &PgOutboxStore,
    request: &AgainRequest,
) -> Result<Vec<OutboxRow>, StoreError> {
    let mut session = store.statement().await?;
    let answer = sqlx::query(READ_AGAIN)
        .bind(request.outbox.0)
        .bind(request.after)
        .bind(request.to)
        .bind(request.seen.to_string())
        .bind(i64::from(request.limit))
        .persistent(store.prepares())
        .fetch_all(session.connection())
        .await?;
    session.finish().await?;
    decode_rows(&answer)
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
