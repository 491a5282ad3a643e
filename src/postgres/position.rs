//! Positions as rows of `tide.relay_position`.
//!
//! A save names its epoch, and the row's epoch decides, under the row's lock,
//! whether it is written: what a superseded owner sends late changes nothing. It
//! does not wait for the disk (`synchronous_commit` is off for that one
//! statement). It finds the row where it left it (`saved_places`), and by its key when
//! it is not there any more: what it costs does not rise while old versions of the row
//! cannot be cleared away (decision 27).
//!
//! A crash of the server may take the last saves back, and with them transaction
//! ids whose log was not flushed: those are handed out again, so a snapshot that
//! a relay still remembers may claim to see transactions that are yet to come.
//! What is on disk is safe, since a save follows in the log all that it speaks
//! of. Hence two rules:
//! - a save is refused when the server has crashed or started since the position
//!   was taken (`tide.relay_server_life` tells of crashes the postmaster survives);
//! - whoever takes a position after that skips
//!   [`NUMBERS_LOST_AT_MOST`] window numbers: rows may have been sent under
//!   numbers that the crash took back, and a consumer drops what is not above
//!   the last number it saw.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::letters;
use super::marks::MarksRecord;
use super::store::PgOutboxStore;
use crate::core::dead_letter::DeadLetter;
use crate::core::ports::{Epoch, Fenced, OutboxId, StoreError};
use crate::core::position::{OpenWindow, Position, WindowNumber};

/// More windows than a relay opens in the time for which a server with default
/// settings may lose asynchronous commits (three times `wal_writer_delay`), or
/// for which a replica that is promoted may lag: two hours at 100 a second.
pub(super) const NUMBERS_LOST_AT_MOST: i64 = 1_000_000;

const BEGIN_LIFE: &str = "
INSERT INTO tide.relay_server_life DEFAULT VALUES ON CONFLICT (only_row) DO NOTHING";

const THIS_DATABASE: &str = "SELECT tide.relay_this_database()::text";

const TAKE: &str = "
INSERT INTO tide.relay_position AS p (pipeline, outbox_id, epoch, began_after, server_started, server_life, place)
SELECT $1, $2, $3, $5, pg_postmaster_start_time(), s.life, $6::text::uuid FROM tide.relay_server_life AS s
ON CONFLICT (pipeline) DO UPDATE
SET epoch = excluded.epoch, outbox_id = coalesce(p.outbox_id, excluded.outbox_id),
    began_after = CASE WHEN p.outbox_id IS NULL THEN excluded.began_after ELSE p.began_after END,
    last_number = p.last_number
        + CASE WHEN p.server_started = excluded.server_started AND p.server_life = excluded.server_life
            THEN 0 ELSE $4 END,
    server_started = excluded.server_started, server_life = excluded.server_life,
    -- What begins anew is of no other database.
    place = CASE WHEN p.base::text = '1:1:' AND p.open_windows = '[]' THEN excluded.place
        ELSE coalesce(p.place, excluded.place) END,
    save_number = 0, updated_at = clock_timestamp()
RETURNING p.outbox_id, p.base::text, p.last_number, p.open_windows::text, p.settled_id, p.marks::text,
    p.began_after, p.place = $6::text::uuid OR tide.relay_is_here(p.place)";

/// Writes a position if the row found is still of this epoch, before this number and in
/// this life of the server; gives its new place.
macro_rules! save {
    ($found:literal) => {
        concat!(
            "
UPDATE tide.relay_position AS p
SET base = $3::text::pg_snapshot, last_number = $4, open_windows = $5::text::jsonb,
    settled_id = $6, marks = $7::text::jsonb, save_number = $8, updated_at = clock_timestamp(),
    highest_id = greatest(p.highest_id, $9)
FROM (SELECT set_config('synchronous_commit', 'off', true)) AS unflushed (setting)
WHERE ",
            $found,
            "p.pipeline = $1 AND p.epoch = $2 AND p.save_number < $8
    AND p.server_started = pg_postmaster_start_time()
    AND p.server_life = (SELECT s.life FROM tide.relay_server_life AS s)
    AND unflushed.setting = 'off'
RETURNING p.ctid::text"
        )
    };
}

const SAVE: &str = save!("");

/// $10 the place. It may miss the row; that nothing can be written is what [`SAVE`] says.
pub(super) const SAVE_AT_PLACE: &str = save!("p.ctid = $10::text::tid AND ");

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
    /// How many rows retention had removed of the outbox when the pipeline began.
    pub(super) began_after: u64,
    /// Whether it was written in this database, and not in one this is a copy of.
    pub(super) is_here: bool,
}

/// Puts the pipeline's position under a new epoch, making it if there is none.
pub(super) async fn take(
    store: &PgOutboxStore,
    connection: &mut PgConnection,
    pipeline: &str,
    outbox: OutboxId,
    epoch: Epoch,
    removed_rows: u64,
) -> Result<StoredPosition, StoreError> {
    sqlx::query(BEGIN_LIFE)
        .persistent(store.prepares())
        .execute(&mut *connection)
        .await?;
    let place: String = sqlx::query_scalar(THIS_DATABASE)
        .persistent(store.prepares())
        .fetch_one(&mut *connection)
        .await?;
    let (outbox, base, last_number, open_windows, settled_id, marks, began_after, is_here): (
        i32,
        String,
        i64,
        String,
        i64,
        String,
        i64,
        bool,
    ) = sqlx::query_as(TAKE)
        .bind(pipeline)
        .bind(outbox.0)
        .bind(epoch.0)
        .bind(NUMBERS_LOST_AT_MOST)
        .bind(i64::try_from(removed_rows).unwrap_or(i64::MAX))
        .bind(place)
        .persistent(store.prepares())
        .fetch_one(connection)
        .await?;
    let unreadable = |error: &dyn std::fmt::Display| {
        StoreError::Refused(format!(
            "the position of pipeline {pipeline:?} cannot be read: {error}"
        ))
    };
    let records: Vec<WindowRecord> =
        serde_json::from_str(&open_windows).map_err(|error| unreadable(&error))?;
    let mut open = Vec::with_capacity(records.len());
    for record in records {
        open.push(OpenWindow {
            number: record.number,
            snapshot: record
                .snapshot
                .parse()
                .map_err(|error| unreadable(&error))?,
        });
    }
    let marks: MarksRecord = serde_json::from_str(&marks).map_err(|error| unreadable(&error))?;
    let last_number = u64::try_from(last_number).map_err(|error| unreadable(&error))?;
    let mut position = Position {
        base: base.parse().map_err(|error| unreadable(&error))?,
        open,
        settled_id,
        last_number: WindowNumber(last_number),
        ..Position::start()
    };
    let marks = marks.read_into(&mut position);
    marks.map_err(|error| unreadable(&error))?;
    Ok(StoredPosition {
        outbox: OutboxId(outbox),
        is_here,
        position,
        began_after: u64::try_from(began_after).map_err(|error| unreadable(&error))?,
    })
}

/// A position's open windows and marks as they are written.
fn texts(position: &Position) -> Result<(String, String), serde_json::Error> {
    let records: Vec<WindowRecord> = position
        .open
        .iter()
        .map(|window| WindowRecord {
            number: window.number,
            snapshot: window.snapshot.to_string(),
        })
        .collect();
    let open_windows = serde_json::to_string(&records)?;
    let marks = serde_json::to_string(&MarksRecord::of(position))?;
    Ok((open_windows, marks))
}

/// What a position weighs as it is written, in bytes: its texts, the base
/// included.
///
/// # Errors
/// It cannot be written as JSON.
pub fn written_bytes(position: &Position) -> Result<usize, serde_json::Error> {
    let (open_windows, marks) = texts(position)?;
    Ok(position.base.to_string().len() + open_windows.len() + marks.len())
}

pub(super) async fn save(
    store: &PgOutboxStore,
    pipeline: &str,
    epoch: Epoch,
    position: &Position,
    letters: &[DeadLetter],
) -> Result<Fenced, StoreError> {
    let unwritable = |error: &dyn std::fmt::Display| {
        StoreError::Refused(format!(
            "the position of pipeline {pipeline:?} cannot be written: {error}"
        ))
    };
    let (open_windows, marks) = texts(position).map_err(|error| unwritable(&error))?;
    let last_number = i64::try_from(position.last_number.0).map_err(|error| unwritable(&error))?;
    let mut session = if letters.is_empty() {
        store.statement().await?
    } else {
        store.transaction().await?
    };
    let base = position.base.to_string();
    let number = store.next_save_number();
    let highest = store.highest_read_for(pipeline);
    let save = |statement: &'static str| {
        sqlx::query_scalar(statement)
            .bind(pipeline)
            .bind(epoch.0)
            .bind(base.as_str())
            .bind(last_number)
            .bind(open_windows.as_str())
            .bind(position.settled_id)
            .bind(marks.as_str())
            .bind(number)
            .bind(highest)
            .persistent(store.prepares())
    };
    let mut place: Option<String> = None;
    if let Some(known) = store.saved_places().of(pipeline) {
        let at_place = save(SAVE_AT_PLACE).bind(known);
        place = at_place.fetch_optional(session.connection()).await?;
    }
    if place.is_none() {
        place = save(SAVE).fetch_optional(session.connection()).await?;
    }
    let Some(place) = place else {
        store.saved_places().forget(pipeline);
        session.finish().await?;
        return Ok(Fenced::Stale);
    };
    letters::park(store, session.connection(), pipeline, letters).await?;
    session.finish().await?;
    store.saved_places().saved(pipeline, place);
    Ok(Fenced::Written)
}
