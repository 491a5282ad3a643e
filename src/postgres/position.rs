//! Positions as rows of `tide.relay_position`.
//!
//! A save names its epoch, and the row's epoch decides, under the row's lock,
//! whether it is written: what a superseded owner sends late changes nothing. It
//! does not wait for the disk (`synchronous_commit` is off for that one
//! statement): a position that a crash of the server takes back costs
//! duplicates, nothing else.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::store::PgOutboxStore;
use crate::core::ports::{Epoch, Fenced, OutboxId, StoreError};
use crate::core::position::{OpenWindow, Position, WindowNumber};

const TAKE: &str = "
INSERT INTO tide.relay_position AS p (pipeline, outbox_id, epoch)
VALUES ($1, $2, $3)
ON CONFLICT (pipeline) DO UPDATE
SET epoch = excluded.epoch, outbox_id = coalesce(p.outbox_id, excluded.outbox_id),
    updated_at = clock_timestamp()
RETURNING p.outbox_id, p.base::text, p.base_number, p.open_windows::text, p.settled_id";

const SAVE: &str = "
UPDATE tide.relay_position AS p
SET base = $3::text::pg_snapshot, base_number = $4, open_windows = $5::text::jsonb,
    settled_id = $6, updated_at = clock_timestamp()
FROM (SELECT set_config('synchronous_commit', 'off', true)) AS unflushed (setting)
WHERE p.pipeline = $1 AND p.epoch = $2 AND unflushed.setting = 'off'";

/// An open window as `open_windows` has it.
#[derive(Serialize, Deserialize)]
struct WindowRecord {
    number: WindowNumber,
    snapshot: String,
}

/// A position and the outbox it is of.
pub(super) struct StoredPosition {
    pub(super) outbox: OutboxId,
    pub(super) position: Position,
}

/// Puts the pipeline's position under a new epoch, making it if there is none.
pub(super) async fn take(
    store: &PgOutboxStore,
    connection: &mut PgConnection,
    pipeline: &str,
    outbox: OutboxId,
    epoch: Epoch,
) -> Result<StoredPosition, StoreError> {
    let (outbox, base, base_number, open_windows, settled_id): (i32, String, i64, String, i64) =
        sqlx::query_as(TAKE)
            .bind(pipeline)
            .bind(outbox.0)
            .bind(epoch.0)
            .persistent(store.prepares())
            .fetch_one(connection)
            .await?;
    let unreadable = |error: &dyn std::fmt::Display| {
        StoreError::Refused(format!("the position of pipeline {pipeline:?} cannot be read: {error}"))
    };
    let records: Vec<WindowRecord> =
        serde_json::from_str(&open_windows).map_err(|error| unreadable(&error))?;
    let mut open = Vec::with_capacity(records.len());
    for record in records {
        open.push(OpenWindow {
            number: record.number,
            snapshot: record.snapshot.parse().map_err(|error| unreadable(&error))?,
        });
    }
    Ok(StoredPosition {
        outbox: OutboxId(outbox),
        position: Position {
            base: base.parse().map_err(|error| unreadable(&error))?,
            base_number: WindowNumber(u64::try_from(base_number).map_err(|error| unreadable(&error))?),
            open,
            settled_id,
        },
    })
}

pub(super) async fn save(
    store: &PgOutboxStore,
    pipeline: &str,
    epoch: Epoch,
    position: &Position,
) -> Result<Fenced, StoreError> {
    let unwritable = |error: &dyn std::fmt::Display| {
        StoreError::Refused(format!("the position of pipeline {pipeline:?} cannot be written: {error}"))
    };
    let records: Vec<WindowRecord> = position
        .open
        .iter()
        .map(|window| WindowRecord {
            number: window.number,
            snapshot: window.snapshot.to_string(),
        })
        .collect();
    let open_windows = serde_json::to_string(&records).map_err(|error| unwritable(&error))?;
    let base_number = i64::try_from(position.base_number.0).map_err(|error| unwritable(&error))?;
    let mut session = store.statement().await?;
    let result = sqlx::query(SAVE)
        .bind(pipeline)
        .bind(epoch.0)
        .bind(position.base.to_string())
        .bind(base_number)
        .bind(open_windows)
        .bind(position.settled_id)
        .persistent(store.prepares())
        .execute(session.connection())
        .await?;
    session.finish().await?;
    Ok(if result.rows_affected() == 0 { Fenced::Stale } else { Fenced::Written })
}
