//! Letters as rows of `tide.relay_dead_letter`.
//!
//! They are written behind the save of the position, in its transaction: the
//! row's lock is held by then, so that a statement of a person that releases a
//! key (see the migration) is seen, or sees these.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::reading::{ROW_COLUMNS, Read, decode_row, fill, most_text};
use super::store::PgOutboxStore;
use super::windows::READ_LETTERS;
use crate::core::dead_letter::{DeadLetter, LetterReason};
use crate::core::page::PageFill;
use crate::core::ports::{
    Epoch, Fenced, LETTERS_COUNTED, Letters, MOST_BLOCKED_KEYS, OutboxId, StoreError,
};
use crate::core::position::RowId;
use crate::core::resend::{LetterAgain, LetterOutcome, LetterPage, LettersRead};

/// A letter that is closed, or on its way again, is left as it is: what is
/// parked twice is what a restart has read again.
const PARK: &str = "
INSERT INTO tide.relay_dead_letter AS d (pipeline, outbox_id, row_id, window_number, partition_key,
    dedup_key, payload, headers, bytes, created_at, reason, message, state, blocks_key)
SELECT $1, m.outbox_id, m.id, l.window_number, l.key, m.dedup_key, m.payload, m.headers,
    octet_length(m.payload::text) + octet_length(m.headers::text), m.created_at,
    l.reason, l.message,
    CASE WHEN l.state = 'waiting' AND l.key NOT IN (
            SELECT b.key FROM unnest($4::text[], $7::text[]) AS b (key, state)
            WHERE b.key IS NOT NULL AND b.state = 'parked')
        AND NOT EXISTS (
            SELECT FROM tide.relay_dead_letter AS f
            WHERE f.pipeline = $1 AND f.outbox_id = m.outbox_id AND f.partition_key = l.key
                AND f.blocks_key AND f.state IN ('parked', 'waiting', 'retry') AND f.state = 'parked')
        THEN 'retry' ELSE l.state END,
    l.blocks_key
FROM unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::boolean[])
        WITH ORDINALITY AS l (row_id, window_number, key, reason, message, state, blocks_key, place)
    JOIN tide.relay_position AS p ON p.pipeline = $1
    CROSS JOIN LATERAL (
        SELECT m.* FROM tide.outbox_message AS m WHERE m.outbox_id = p.outbox_id AND m.id = l.row_id OFFSET 0
    ) AS m
ORDER BY l.place
ON CONFLICT ON CONSTRAINT relay_dead_letter_row DO UPDATE
SET attempts = d.attempts + 1, last_at = clock_timestamp(), reason = excluded.reason, message = excluded.message
WHERE d.state IN ('parked', 'waiting')";

/// Rows that have no letter though one was to be written.
const WITHOUT_LETTER: &str = "
SELECT l.row_id FROM unnest($2::bigint[]) AS l (row_id) JOIN tide.relay_position AS p ON p.pipeline = $1
WHERE NOT EXISTS (
    SELECT FROM tide.relay_dead_letter AS d
    WHERE d.pipeline = $1 AND d.outbox_id = p.outbox_id AND d.row_id = l.row_id)";

/// From key to key through the index: cheap however many letters wait behind one.
const KNOWN: &str = "
WITH RECURSIVE blocked AS (
    SELECT (SELECT min(d.partition_key) FROM tide.relay_dead_letter AS d
        WHERE d.pipeline = $1 AND d.outbox_id = $2
            AND d.blocks_key AND d.state IN ('parked', 'waiting', 'retry')) AS key
    UNION ALL
    SELECT (SELECT min(d.partition_key) FROM tide.relay_dead_letter AS d
        WHERE d.pipeline = $1 AND d.outbox_id = $2 AND d.partition_key > b.key
            AND d.blocks_key AND d.state IN ('parked', 'waiting', 'retry'))
    FROM blocked AS b WHERE b.key IS NOT NULL
)
SELECT coalesce((SELECT max(d.row_id) FROM tide.relay_dead_letter AS d
        WHERE d.pipeline = $1 AND d.outbox_id = $2), 0),
    ARRAY(SELECT b.key FROM blocked AS b WHERE b.key IS NOT NULL LIMIT $3),
    (SELECT count(*) FROM (SELECT FROM tide.relay_dead_letter AS d
        WHERE d.pipeline = $1 AND d.state IN ('parked', 'waiting') LIMIT $4) AS counted)";

const ROWS_WITH: &str = "
SELECT d.row_id FROM tide.relay_dead_letter AS d
WHERE d.pipeline = $1 AND d.outbox_id = $2 AND d.row_id = ANY ($3)";

/// Writes letters in the transaction that has just saved the position.
pub(super) async fn park(
    store: &PgOutboxStore,
    connection: &mut PgConnection,
    pipeline: &str,
    letters: &[DeadLetter],
) -> Result<(), StoreError> {
    if letters.is_empty() {
        return Ok(());
    }
    let rows: Vec<RowId> = letters.iter().map(|letter| letter.seq.id).collect();
    let window = |letter: &DeadLetter| i64::try_from(letter.seq.window.0).unwrap_or(i64::MAX);
    let windows: Vec<i64> = letters.iter().map(window).collect();
    let keys: Vec<Option<&str>> = letters.iter().map(|letter| letter.key.as_deref()).collect();
    let reasons: Vec<&str> = letters.iter().map(|letter| letter.reason.code()).collect();
    let messages: Vec<&str> = letters.iter().map(|letter| &*letter.message).collect();
    let states: Vec<&str> = letters.iter().map(|letter| letter.state.name()).collect();
    let blocks: Vec<bool> = letters.iter().map(|letter| letter.blocks_key).collect();
    let parked = sqlx::query(PARK)
        .bind(pipeline)
        .bind(&rows)
        .bind(windows)
        .bind(keys)
        .bind(reasons)
        .bind(messages)
        .bind(states)
        .bind(blocks)
        .persistent(store.prepares())
        .execute(&mut *connection)
        .await?;
    // Fewer are written when some are closed already, or when somebody has deleted
    // rows from the outbox by hand: then there is nothing left to keep.
    if usize::try_from(parked.rows_affected()).is_ok_and(|parked| parked < letters.len()) {
        let deleted: Vec<RowId> = sqlx::query_scalar(WITHOUT_LETTER)
            .bind(pipeline)
            .bind(&rows)
            .persistent(store.prepares())
            .fetch_all(connection)
            .await?;
        if !deleted.is_empty() {
            tracing::error!(
                pipeline,
                rows = ?deleted,
                "these rows could not be parked: they were deleted from the outbox by hand"
            );
        }
    }
    Ok(())
}

pub(super) async fn known(
    store: &PgOutboxStore,
    pipeline: &str,
    outbox: OutboxId,
) -> Result<Letters, StoreError> {
    let most_keys = i64::try_from(MOST_BLOCKED_KEYS + 1).unwrap_or(i64::MAX);
    let most_counted = i64::try_from(LETTERS_COUNTED).unwrap_or(i64::MAX);
    let mut session = store.statement().await?;
    let (highest_row, blocked_keys, open): (RowId, Vec<String>, i64) = sqlx::query_as(KNOWN)
        .bind(pipeline)
        .bind(outbox.0)
        .bind(most_keys)
        .bind(most_counted)
        .persistent(store.prepares())
        .fetch_one(session.connection())
        .await?;
    session.finish().await?;
    Ok(Letters {
        highest_row,
        blocked_keys,
        open: u64::try_from(open).unwrap_or(0),
    })
}

pub(super) async fn rows_with(
    store: &PgOutboxStore,
    pipeline: &str,
    outbox: OutboxId,
    rows: &[RowId],
) -> Result<Vec<RowId>, StoreError> {
    let mut session = store.statement().await?;
    let found: Vec<RowId> = sqlx::query_scalar(ROWS_WITH)
        .bind(pipeline)
        .bind(outbox.0)
        .bind(rows)
        .persistent(store.prepares())
        .fetch_all(session.connection())
        .await?;
    session.finish().await?;
    Ok(found)
}

// === Letters that are sent again ===

const OWNED: &str = "
SELECT p.outbox_id FROM tide.relay_position AS p WHERE p.pipeline = $1 AND p.epoch = $2 FOR UPDATE";

const CLOSE: &str = "
UPDATE tide.relay_dead_letter AS d
SET state = CASE WHEN o.reason IS NULL THEN 'delivered' ELSE 'parked' END, attempts = d.attempts + 1,
    last_at = clock_timestamp(), reason = coalesce(o.reason, d.reason), message = coalesce(o.message, d.message)
FROM unnest($3::bigint[], $4::text[], $5::text[]) AS o (row_id, reason, message)
WHERE d.pipeline = $1 AND d.outbox_id = $2 AND d.row_id = o.row_id AND d.state = 'retry'";

/// Those of a key that come behind a letter that is parked again wait for it again;
/// those before it are on their way.
const WAIT_BEHIND: &str = "
UPDATE tide.relay_dead_letter AS d SET state = 'waiting'
FROM (
    SELECT DISTINCT ON (f.partition_key) f.partition_key, f.window_number, f.row_id FROM tide.relay_dead_letter AS f
    WHERE f.pipeline = $1 AND f.outbox_id = $2 AND f.row_id = ANY ($3) AND f.blocks_key AND f.state = 'parked'
    ORDER BY f.partition_key, f.window_number, f.row_id
) AS blocked
WHERE d.pipeline = $1 AND d.outbox_id = $2 AND d.partition_key = blocked.partition_key
    AND d.blocks_key AND d.state = 'retry'
    AND (d.window_number, d.row_id) > (blocked.window_number, blocked.row_id)";

pub(super) async fn to_send(
    store: &PgOutboxStore,
    pipeline: &str,
    outbox: OutboxId,
    page: LetterPage<'_>,
) -> Result<LettersRead, StoreError> {
    let statement = sqlx::query(READ_LETTERS)
        .bind(pipeline)
        .bind(outbox.0)
        .bind(page.after)
        .bind(i64::from(page.letters))
        .bind(i64::try_from(page.bytes).unwrap_or(i64::MAX))
        .bind(most_text(page.bytes))
        .persistent(store.prepares());
    let empty = PageFill::new(page.bytes);
    let filled = fill(store.statement().await?, statement, empty, add_letter).await?;
    let (letters, cut) = filled.finish();
    Ok(LettersRead { letters, cut })
}

fn add_letter(page: &mut PageFill<LetterAgain>, row: &PgRow) -> Result<(), sqlx::Error> {
    let row_of_it = match decode_row(row, 0)? {
        Read::Large(large) => {
            page.push_large(large);
            return Ok(());
        }
        Read::Row(found) => found,
    };
    let letter = LetterAgain {
        key: row.try_get(ROW_COLUMNS)?,
        frees_key: row.try_get(ROW_COLUMNS + 1)?,
        row: row_of_it,
    };
    page.push(letter.row.id, letter.row.memory(), letter);
    Ok(())
}

/// Under the position's lock, as everything that changes states of letters.
pub(super) async fn save(
    store: &PgOutboxStore,
    pipeline: &str,
    epoch: Epoch,
    outcomes: &[LetterOutcome],
) -> Result<Fenced, StoreError> {
    let mut session = store.transaction().await?;
    let owned: Option<Option<i32>> = sqlx::query_scalar(OWNED)
        .bind(pipeline)
        .bind(epoch.0)
        .persistent(store.prepares())
        .fetch_optional(session.connection())
        .await?;
    let Some(Some(outbox)) = owned else {
        session.finish().await?;
        return Ok(Fenced::Stale);
    };
    let rows: Vec<RowId> = outcomes.iter().map(|one| one.row).collect();
    let refused = |one: &LetterOutcome| one.refused.clone().unzip();
    let (reasons, messages): (Vec<Option<_>>, Vec<Option<String>>) =
        outcomes.iter().map(refused).unzip();
    let reasons: Vec<Option<&str>> = reasons
        .iter()
        .map(|one| one.map(LetterReason::code))
        .collect();
    let is_refused = reasons.iter().any(Option::is_some);
    sqlx::query(CLOSE)
        .bind(pipeline)
        .bind(outbox)
        .bind(&rows)
        .bind(reasons)
        .bind(messages)
        .persistent(store.prepares())
        .execute(session.connection())
        .await?;
    if is_refused {
        sqlx::query(WAIT_BEHIND)
            .bind(pipeline)
            .bind(outbox)
            .bind(&rows)
            .persistent(store.prepares())
            .execute(session.connection())
            .await?;
    }
    session.finish().await?;
    Ok(Fenced::Written)
}
