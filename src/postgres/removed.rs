//! What retention has removed, for whoever takes a position.
//!
//! The outbox's row is locked first: no batch runs while a pipeline begins or goes
//! on, so that what is read here stays true until the position is taken.

use std::sync::Arc;

use sqlx::PgConnection;

use super::retention::{count, unreadable};
use super::store::PgOutboxStore;
use crate::core::ports::{OutboxId, StoreError};
use crate::core::retention::Removed;

/// What was removed, read by whoever lets a pipeline begin or go on; the lock keeps
/// batches out until its transaction ends.
const REMOVED: &str = "
SELECT coalesce(t.removed_rows, 0), coalesce(t.removed_id, 0), coalesce(t.removed_xact::text, '0'),
    coalesce(t.removed_seen::text, '1:1:'), t.removed_at::text
FROM tide.outbox AS o LEFT JOIN tide.outbox_retention AS t ON t.outbox_id = o.outbox_id
WHERE o.outbox_id = $1";

const KEEP_OUTBOX: &str = "
SELECT 1 FROM tide.outbox AS o WHERE o.outbox_id = $1 FOR KEY SHARE";

/// What was removed of an outbox, and when last.
pub(super) struct RemovedRecord {
    pub(super) removed: Removed,
    pub(super) last_at: Option<String>,
}

/// Keeps batches out of the outbox until the transaction ends, and says what was
/// removed so far.
pub(super) async fn hold_off(
    store: &PgOutboxStore,
    connection: &mut PgConnection,
    outbox: OutboxId,
) -> Result<RemovedRecord, StoreError> {
    sqlx::query(KEEP_OUTBOX)
        .bind(outbox.0)
        .persistent(store.prepares())
        .execute(&mut *connection)
        .await?;
    // A statement of its own: it must see what a batch has committed for whose end
    // the lock has waited.
    let found: Option<(i64, i64, String, String, Option<String>)> = sqlx::query_as(REMOVED)
        .bind(outbox.0)
        .persistent(store.prepares())
        .fetch_optional(connection)
        .await?;
    let Some((rows, id, xact, seen, last_at)) = found else {
        return Err(StoreError::Refused(
            "the outbox was dropped a moment ago".to_owned(),
        ));
    };
    let removed = Removed {
        rows: count(rows),
        id,
        xact: xact.parse().map_err(|error| unreadable(&error))?,
        seen: seen.parse().map_err(|error| unreadable(&error))?,
    };
    Ok(RemovedRecord { removed, last_at })
}

/// How a pipeline whose position lies before removed rows is told so.
pub(super) fn refusal(pipeline: &str, outbox: &Arc<str>, record: &RemovedRecord) -> StoreError {
    let Removed { rows, id, .. } = record.removed;
    let last_at = record.last_at.as_deref().unwrap_or("an unknown time");
    StoreError::Refused(format!(
        "the position of pipeline {pipeline:?} lies before messages of outbox {outbox:?} that retention has removed \
         ({rows} so far, ids up to {id}, the last ones at {last_at}): it was restored from a backup or moved back, and \
         going on would skip messages that may not have been delivered. Restore a newer position; or, to go on without \
         the removed messages, SELECT tide.relay_accept_removed('{pipeline}')"
    ))
}
