//! Taking rows as they come, until a bound of bytes is reached.
//!
//! Nobody can tell cheaply what a row weighs before it is read: `pg_column_size` is
//! what it takes compressed, and the length of its text needs the text. So the
//! statements turn a row into text as it is sent and not before, and rows are taken
//! from the connection one by one. Rules:
//! - a row that weighs more than the whole bound is not sent: its sizes are;
//! - when the bound is reached, what the server has still to send is thrown away row
//!   by row if it is little; if it is much, the connection is closed, which also ends
//!   the statement. (A pooler's sessions are not ours to close: there all of it is
//!   read and thrown away.)

use std::time::Duration;

use futures::TryStreamExt;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row, ValueRef};

use super::session::Session;
use crate::core::page::{LargeRow, PageFill, RowPage};
use crate::core::ports::StoreError;
use crate::core::row::{OutboxRow, ROW_OVERHEAD};
use crate::core::timestamp::Timestamp;

/// What is thrown away rather than open a new connection, in bytes: about what a
/// server sends in the time a connection takes (a few milliseconds).
const MOST_DISCARDED: usize = 2 * 1024 * 1024;

/// The rows of `r`, in its order, their JSON made text while they are sent, and what all
/// their texts weigh in bytes, which is counted once. Without OFFSET the planner may make
/// text of all rows before it sorts them.
macro_rules! rows_as_text {
    ($of:expr) => {
        concat!(
            "(SELECT u.*, octet_length(u.payload_text)::bigint + octet_length(u.headers_text)
                + coalesce(octet_length(u.dedup_key), 0) AS octets
            FROM (SELECT r.*, r.payload::text AS payload_text, r.headers::text AS headers_text FROM ",
            $of,
            " OFFSET 0) AS u OFFSET 0) AS t"
        )
    };
}

/// How a row of `t`, see [`rows_as_text`], is sent: id, key, payload, headers, when it
/// was inserted and when it is sent; bytes of its payload and of all its texts, if they are more than
/// the parameter `$most`: then without its payload and whatever else is large.
macro_rules! row_columns {
    ($most:literal) => {
        concat!(
            "t.id, CASE WHEN ", row_columns!(fits $most), " THEN t.dedup_key ELSE left(t.dedup_key, 300) END,
            CASE WHEN ", row_columns!(fits $most), " THEN t.payload_text END,
            CASE WHEN ", row_columns!(fits $most), " OR octet_length(t.headers_text) <= 65536 THEN t.headers_text END,
            t.created_at, clock_timestamp(),
            CASE WHEN NOT ", row_columns!(fits $most), " THEN octet_length(t.payload_text)::bigint END,
            CASE WHEN NOT ", row_columns!(fits $most), " THEN t.octets END"
        )
    };
    (fits $most:literal) => {
        concat!("t.octets <= ", $most, "::bigint")
    };
}

pub(super) use {row_columns, rows_as_text};

/// 2000-01-01T00:00:00Z, from which PostgreSQL counts, in microseconds since 1970.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// How many columns [`row_columns`] are.
pub(super) const ROW_COLUMNS: usize = 8;

/// What came of a row.
pub(super) enum Read {
    Row(OutboxRow),
    Large(LargeRow),
}

/// A bound of bytes as the parameter of [`row_columns`]: what the texts of one row
/// may weigh.
pub(super) fn most_text(bytes: usize) -> i64 {
    i64::try_from(bytes.saturating_sub(ROW_OVERHEAD)).unwrap_or(i64::MAX)
}

/// Decodes [`row_columns`], beginning at `first`. Their types are those of the statement:
/// to ask of each value whether it has them costs more than to read it.
pub(super) fn decode_row(row: &PgRow, first: usize) -> Result<Read, sqlx::Error> {
    // As PostgreSQL keeps them: made text, or subtracted, they cost it a quarter of
    // what a row costs.
    let created_at: i64 = row.try_get_unchecked(first + 4)?;
    let sent_at: i64 = row.try_get_unchecked(first + 5)?;
    let age = sent_at.saturating_sub(created_at);
    let payload: Option<String> = row.try_get_unchecked(first + 2)?;
    let headers: Option<String> = row.try_get_unchecked(first + 3)?;
    let payload_bytes: Option<i64> = row.try_get_unchecked(first + 6)?;
    let text_bytes: Option<i64> = row.try_get_unchecked(first + 7)?;
    let decoded = OutboxRow {
        id: row.try_get_unchecked(first)?,
        dedup_key: row.try_get_unchecked(first + 1)?,
        payload: payload.unwrap_or_default(),
        headers: headers.unwrap_or_else(|| "{}".to_owned()),
        created_at: Timestamp::from_unix_micros(created_at.saturating_add(POSTGRES_EPOCH)),
        age: Duration::from_micros(u64::try_from(age).unwrap_or(0)),
    };
    let size = |bytes: i64| usize::try_from(bytes).unwrap_or(0);
    Ok(match (payload_bytes, text_bytes) {
        (Some(payload), Some(text)) => Read::Large(LargeRow {
            row: decoded,
            payload_bytes: size(payload),
            memory: size(text).saturating_add(ROW_OVERHEAD),
        }),
        (Some(_), None) | (None, Some(_)) | (None, None) => Read::Row(decoded),
    })
}

/// Adds a row to a page of plain rows.
pub(super) fn add_row(
    page: &mut PageFill<OutboxRow>,
    row: &PgRow,
    first: usize,
) -> Result<(), sqlx::Error> {
    match decode_row(row, first)? {
        Read::Row(row) => page.push(row.id, row.memory(), row),
        Read::Large(large) => page.push_large(large),
    }
    Ok(())
}

/// Runs a statement and gives each row of its answer to `add`, until the page is cut.
pub(super) async fn fill<T>(
    mut session: Session,
    statement: Query<'_, Postgres, PgArguments>,
    mut page: PageFill<T>,
    mut add: impl FnMut(&mut PageFill<T>, &PgRow) -> Result<(), sqlx::Error>,
) -> Result<PageFill<T>, StoreError> {
    let may_abandon = session.is_ours();
    let mut discarded = 0_usize;
    let mut answer = statement.fetch(session.connection());
    while let Some(row) = answer.try_next().await? {
        if !page.is_cut() {
            add(&mut page, &row)?;
            continue;
        }
        discarded = discarded.saturating_add(bytes_of(&row));
        if may_abandon && discarded > MOST_DISCARDED {
            drop(answer);
            session.abandon().await;
            return Ok(page);
        }
    }
    drop(answer);
    session.finish().await?;
    Ok(page)
}

fn bytes_of(row: &PgRow) -> usize {
    let sizes = (0..row.len()).map(|column| {
        let value = row
            .try_get_raw(column)
            .ok()
            .filter(|value| !value.is_null());
        value.and_then(|value| value.as_bytes().ok().map(<[u8]>::len))
    });
    sizes.flatten().sum()
}

/// Runs a statement that answers rows as [`row_columns`].
pub(super) async fn read_rows(
    session: Session,
    statement: Query<'_, Postgres, PgArguments>,
    bytes: usize,
) -> Result<RowPage, StoreError> {
    let page = PageFill::new(bytes);
    let (rows, cut) = fill(session, statement, page, |page, row| add_row(page, row, 0))
        .await?
        .finish();
    Ok(RowPage { rows, cut })
}
