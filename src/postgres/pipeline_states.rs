//! What pipelines are doing, as rows of `tide.relay_pipeline_state`.
//!
//! Whoever runs a pipeline speaks for it: while a lease runs, nobody else writes.
//! What nobody runs (it is paused, its definition is invalid) any node may describe;
//! all say the same, and what is there already is not written again.

use sqlx::PgPool;

use super::pool as connections;
use super::server::{ServerWatch, standby};
use crate::core::catalog::StateNote;
use crate::core::ports::{PipelineName, StoreError};

/// A note under an epoch is refused when that is not the lease's any more. Gives
/// the pipelines of which this node may speak.
const WRITE: &str = "
WITH held AS (
    SELECT l.pipeline FROM tide.relay_lease AS l
    WHERE l.owner <> $1 AND l.expires_at > clock_timestamp() AND l.pipeline = ANY ($2::text[] || $6::text[])
), noted AS (
    SELECT n.pipeline, n.epoch, n.state, n.reason
    FROM unnest($2::text[], $3::bigint[], $4::text[], $5::text[]) AS n (pipeline, epoch, state, reason)
    WHERE n.pipeline NOT IN (SELECT h.pipeline FROM held AS h)
        AND (n.epoch IS NULL OR EXISTS (
            SELECT FROM tide.relay_lease AS l WHERE l.pipeline = n.pipeline AND l.owner = $1 AND l.epoch = n.epoch))
), gone AS (
    SELECT g.pipeline FROM unnest($6::text[]) AS g (pipeline)
    WHERE g.pipeline NOT IN (SELECT h.pipeline FROM held AS h)
), written AS (
    INSERT INTO tide.relay_pipeline_state AS s (pipeline, node, epoch, state, reason)
    SELECT n.pipeline, $1, n.epoch, n.state, n.reason FROM noted AS n ORDER BY n.pipeline
    ON CONFLICT (pipeline) DO UPDATE
    SET node = excluded.node, epoch = excluded.epoch, state = excluded.state, reason = excluded.reason,
        since = CASE WHEN s.state = excluded.state THEN s.since ELSE clock_timestamp() END
    WHERE (s.epoch, s.state, s.reason) IS DISTINCT FROM (excluded.epoch, excluded.state, excluded.reason)
        OR excluded.epoch IS NOT NULL AND s.node <> excluded.node
), removed AS (
    DELETE FROM tide.relay_pipeline_state AS s USING gone AS g WHERE s.pipeline = g.pipeline
)
SELECT n.pipeline FROM noted AS n UNION ALL SELECT g.pipeline FROM gone AS g";

/// Text that PostgreSQL takes.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

pub(super) async fn write(
    pool: &PgPool,
    watch: &ServerWatch,
    node: &str,
    states: &[StateNote],
    gone: &[PipelineName],
) -> Result<Vec<String>, StoreError> {
    let mut pipelines = Vec::with_capacity(states.len());
    let mut epochs = Vec::with_capacity(states.len());
    let mut names = Vec::with_capacity(states.len());
    let mut reasons = Vec::with_capacity(states.len());
    for note in states {
        pipelines.push(&*note.pipeline);
        epochs.push(note.epoch.map(|epoch| epoch.0));
        names.push(note.state);
        reasons.push(note.reason.as_deref().map(storable));
    }
    let gone: Vec<&str> = gone.iter().map(|name| &**name).collect();
    let mut transaction = connections::begin(pool).await?;
    if watch.is_standby() {
        return Err(standby());
    }
    let noted = sqlx::query_scalar(WRITE)
        .bind(node)
        .bind(pipelines)
        .bind(epochs)
        .bind(names)
        .bind(reasons)
        .bind(gone)
        .persistent(false)
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(noted)
}
