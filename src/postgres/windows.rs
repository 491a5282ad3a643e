//! Reading the rows between two snapshots.
//!
//! The rows of the window from P to T are
//! - fresh: `xact >= xmax(P)` and visible in T, and
//! - late: of a transaction that P saw running and T saw ended.
//!
//! Rules, each kept by the shape of a statement, since statistics may be stale
//! or absent:
//! - a small window is found through the index by transaction: the fresh part is
//!   read `ORDER BY xact, id LIMIT`, which no other index can give;
//! - rows of a transaction that still runs are not even looked at: late ones are
//!   left out by their xid, new ones by xmax(T). A long transaction with a million
//!   rows must not cost a scan per poll;
//! - a large window is paged by id through the primary key: there the condition
//!   on xact is a function call, which no index can use;
//! - a page starts at the fresh rows' own lowest id, not at a late row's;
//! - a snapshot is parsed once per statement, in a scalar subquery.

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{Postgres, Row};

use super::reading::{self, add_row, fill, most_text, row_columns, rows_as_text};
use super::session::Session;
use super::store::PgOutboxStore;
use crate::core::page::{Cut, PageFill, ReadBound, RowPage};
use crate::core::ports::{Opened, OutboxId, PageRequest, StoreError, WindowRows};
use crate::core::position::RowId;
use crate::core::row::OutboxRow;
use crate::core::snapshot::{Snapshot, Xid};

/// A statement that reads a window if it has at most $4 rows, and its bounds alone if
/// it has more. $1 outbox, $2 xmax(P), $3 late transactions. The first row of the
/// answer is (T, [first, first fresh, last]), the array NULL when the window is empty;
/// the others are rows in id order.
macro_rules! read_window {
    (fresh: $fresh:literal, late: $late:literal, lowest_fresh: $lowest_fresh:literal, highest: $highest:literal, most: $most:literal) => {
        concat!(
            "WITH window_rows AS MATERIALIZED (
                (
                    SELECT m.id, m.dedup_key, m.payload, m.headers, m.created_at, false AS is_late
                    FROM tide.outbox_message AS m
                    WHERE m.outbox_id = $1 AND ", $fresh, "
                    ORDER BY m.xact, m.id LIMIT $4::bigint + 1
                )
                UNION ALL
                (
                    SELECT of_transaction.*
                    FROM unnest($3::text[]::xid8[]) AS late (xid) CROSS JOIN LATERAL (
                        SELECT m.id, m.dedup_key, m.payload, m.headers, m.created_at, true AS is_late
                        FROM tide.outbox_message AS m
                        WHERE m.outbox_id = $1 AND m.xact >= late.xid AND m.xact <= late.xid
                        ORDER BY m.xact, m.id LIMIT $4::bigint + 1
                    ) AS of_transaction
                    WHERE ", $late, "
                    LIMIT $4::bigint + 1
                )
            ), size AS MATERIALIZED (
                SELECT count(*) > $4::bigint AS is_large FROM window_rows
            ), late_ends AS (
                SELECT min(lowest.id) AS first, max(highest.id) AS last
                FROM unnest($3::text[]::xid8[]) AS late (xid) CROSS JOIN LATERAL (
                    SELECT m.id FROM tide.outbox_message AS m
                    WHERE m.outbox_id = $1 AND m.xact >= late.xid AND m.xact <= late.xid
                    ORDER BY m.xact, m.id LIMIT 1
                ) AS lowest CROSS JOIN LATERAL (
                    SELECT m.id FROM tide.outbox_message AS m
                    WHERE m.outbox_id = $1 AND m.xact >= late.xid AND m.xact <= late.xid
                    ORDER BY m.xact DESC, m.id DESC LIMIT 1
                ) AS highest
                WHERE ", $late, "
            ), fresh_rows AS (
                SELECT m.id FROM tide.outbox_message AS m
                WHERE m.outbox_id = $1 AND ", $fresh, "
                ORDER BY m.xact, m.id OFFSET 0
            ), bounds AS (
                SELECT ends.first, fresh.first AS first_fresh, ends.last
                FROM (SELECT ", $lowest_fresh, " AS first, ", $highest, " AS last) AS fresh
                CROSS JOIN LATERAL (
                    SELECT least(l.first, fresh.first) AS first, greatest(l.last, fresh.last) AS last
                    FROM late_ends AS l
                ) AS ends
            )
            SELECT pg_current_snapshot()::text,
                CASE WHEN s.is_large
                    THEN (SELECT ARRAY[b.first, coalesce(b.first_fresh, b.last), b.last] FROM bounds AS b)
                    ELSE (
                        SELECT ARRAY[min(w.id), coalesce(min(w.id) FILTER (WHERE NOT w.is_late), max(w.id)), max(w.id)]
                        FROM window_rows AS w HAVING count(*) > 0
                    )
                END,
                NULL::bigint, NULL::text, NULL::text, NULL::text, NULL::timestamptz, NULL::timestamptz, NULL::bigint, NULL::bigint
            FROM size AS s
            UNION ALL
            SELECT NULL, NULL, ", row_columns!($most), "
            FROM ", rows_as_text!("(
                SELECT w.* FROM window_rows AS w, size AS s WHERE NOT s.is_large ORDER BY w.id OFFSET 0
            ) AS r")
        )
    };
}

/// T is the statement's own snapshot, so every row it can see is visible in T; its
/// xmax only keeps the scan from walking over rows of a transaction that runs.
/// $5 what the texts of one row may weigh.
/// The bounds that need no exactness are taken from the ends of the primary key:
/// the highest id, and the lowest one when P sees nothing at all.
pub(super) const OPEN: &str = read_window!(
    fresh: "m.xact >= (SELECT $2::text::xid8) AND m.xact < (SELECT pg_snapshot_xmax(pg_current_snapshot()))",
    late: "pg_visible_in_snapshot(late.xid, pg_current_snapshot())",
    lowest_fresh: "CASE WHEN $2::text = '1'
        THEN (SELECT m.id FROM tide.outbox_message AS m WHERE m.outbox_id = $1 ORDER BY m.id LIMIT 1)
        ELSE (SELECT min(f.id) FROM fresh_rows AS f) END",
    highest: "(SELECT m.id FROM tide.outbox_message AS m WHERE m.outbox_id = $1 ORDER BY m.id DESC LIMIT 1)",
    most: "$5"
);

/// T is given ($5 xmax, $6 itself), $7 what the texts of one row may weigh; the late transactions are those that ended
/// between P and T.
pub(super) const REOPEN: &str = read_window!(
    fresh: "m.xact >= (SELECT $2::text::xid8) AND m.xact < (SELECT $5::text::xid8)
        AND pg_visible_in_snapshot(m.xact, (SELECT $6::text::pg_snapshot))",
    late: "true",
    lowest_fresh: "(SELECT min(f.id) FROM fresh_rows AS f)",
    highest: "(SELECT max(f.id) FROM fresh_rows AS f)",
    most: "$7"
);

/// $1 outbox, $2 xmax(P), $3 late transactions, $4 T, $5 after, $6 after for the
/// fresh part, $7 last, $8 limit,
/// $9 what the texts of one row may weigh.
pub(super) const READ_PAGE: &str = concat!(
    "SELECT ", row_columns!("$9"), " FROM ", rows_as_text!("(
        (
            SELECT m.id, m.dedup_key, m.payload, m.headers, m.created_at
            FROM tide.outbox_message AS m
            WHERE m.outbox_id = $1 AND m.id > $6 AND m.id <= $7
                AND xid8ge(m.xact, (SELECT $2::text::xid8))
                AND pg_visible_in_snapshot(m.xact, (SELECT $4::text::pg_snapshot))
            ORDER BY m.id LIMIT $8
        )
        UNION ALL
        (
            SELECT of_transaction.*
            FROM unnest($3::text[]::xid8[]) AS late (xid) CROSS JOIN LATERAL (
                SELECT m.id, m.dedup_key, m.payload, m.headers, m.created_at
                FROM tide.outbox_message AS m
                WHERE m.outbox_id = $1
                    AND (m.xact, m.id) > (late.xid, $5::bigint) AND (m.xact, m.id) <= (late.xid, $7::bigint)
                ORDER BY m.xact, m.id LIMIT $8
            ) AS of_transaction
        )
        ORDER BY id LIMIT $8
    ) AS r")
);

/// $1 outbox, $2 ids, $3 what the texts of one row may weigh.
pub(super) const READ_ROWS: &str = concat!(
    "SELECT ", row_columns!("$3"), " FROM ", rows_as_text!("(
        SELECT found.* FROM unnest($2::bigint[]) WITH ORDINALITY AS wanted (id, place) CROSS JOIN LATERAL (
            SELECT m.* FROM tide.outbox_message AS m
            WHERE m.outbox_id = $1 AND m.id = wanted.id OFFSET 0
        ) AS found
        ORDER BY wanted.place OFFSET 0
    ) AS r")
);

/// $1 outbox, $2 after, $3 last, $4 what the reader has read, $5 limit, $6 pipeline,
/// $7 what the texts of one row may weigh.
pub(super) const READ_AGAIN: &str = concat!(
    "SELECT ",
    row_columns!("$7"),
    " FROM ",
    rows_as_text!(
        "(
        SELECT m.* FROM tide.outbox_message AS m
        WHERE m.outbox_id = $1 AND m.id > $2 AND m.id <= $3
            AND pg_visible_in_snapshot(m.xact, (SELECT $4::text::pg_snapshot))
            AND NOT EXISTS (
                SELECT FROM tide.relay_dead_letter AS d
                WHERE d.pipeline = $6 AND d.outbox_id = m.outbox_id AND d.row_id = m.id
                    AND d.state <> 'delivered')
        ORDER BY m.id LIMIT $5
    ) AS r"
    )
);

/// The first letters of each key, through the index of those to be sent again, and
/// letters without a key; each with whether no open letter of its key comes after
/// it. $1 pipeline, $2 outbox, $3 key to begin behind (NULL: the
/// first), $4 letters at most, $5 bytes before the last of them at most,
/// $6 what the texts of one may weigh.
pub(super) const READ_LETTERS: &str = concat!(
    "WITH RECURSIVE keys AS (
        SELECT (SELECT min(d.partition_key) FROM tide.relay_dead_letter AS d
            WHERE d.pipeline = $1 AND d.outbox_id = $2 AND d.state = 'retry'
                AND d.partition_key > coalesce($3::text, '')) AS key
        UNION ALL
        SELECT (SELECT min(d.partition_key) FROM tide.relay_dead_letter AS d
            WHERE d.pipeline = $1 AND d.outbox_id = $2 AND d.state = 'retry' AND d.partition_key > k.key)
        FROM keys AS k WHERE k.key IS NOT NULL
    ), first_of_each AS (
        SELECT f.* FROM (SELECT k.key FROM keys AS k WHERE k.key IS NOT NULL LIMIT $4) AS k
        CROSS JOIN LATERAL (
            SELECT d.* FROM tide.relay_dead_letter AS d
            WHERE d.pipeline = $1 AND d.outbox_id = $2 AND d.state = 'retry' AND d.partition_key = k.key
            ORDER BY d.window_number, d.row_id LIMIT 50
        ) AS f
        UNION ALL
        (
            SELECT d.* FROM tide.relay_dead_letter AS d
            WHERE d.pipeline = $1 AND d.outbox_id = $2 AND d.state = 'retry' AND d.partition_key IS NULL
                AND $3::text IS NULL
            ORDER BY d.window_number, d.row_id LIMIT $4
        )
    )
    SELECT ", row_columns!("$6"), ", t.partition_key,
        t.blocks_key AND NOT EXISTS (
            SELECT FROM tide.relay_dead_letter AS x
            WHERE x.pipeline = $1 AND x.outbox_id = $2 AND x.partition_key = t.partition_key
                AND x.blocks_key AND x.state IN ('parked', 'waiting', 'retry')
                AND (x.state <> 'retry' OR (x.window_number, x.row_id) > (t.window_number, t.row_id)))
    FROM ", rows_as_text!("(
        SELECT ranked.* FROM (
            SELECT f.*, f.row_id AS id, sum(f.bytes) OVER (
                ORDER BY f.partition_key NULLS FIRST, f.window_number, f.row_id ROWS UNBOUNDED PRECEDING) - f.bytes AS before
            FROM first_of_each AS f
        ) AS ranked
        WHERE ranked.before < $5
        ORDER BY ranked.partition_key NULLS FIRST, ranked.window_number, ranked.row_id LIMIT $4
    ) AS r")
);

fn texts(xids: &[Xid]) -> Vec<String> {
    xids.iter().map(Xid::to_string).collect()
}

/// The first row of the answer of a [`read_window`] statement.
type WindowHead = (String, Option<Vec<RowId>>);

/// Runs a [`read_window`] statement.
async fn read_window(
    session: Session,
    statement: Query<'_, Postgres, PgArguments>,
    bytes: usize,
) -> Result<(String, WindowRows), StoreError> {
    let mut head: Option<WindowHead> = None;
    let filled = fill(session, statement, PageFill::new(bytes), |page, row| {
        match row.try_get::<Option<String>, _>(0)? {
            Some(snapshot) => head = Some((snapshot, row.try_get(1)?)),
            None => add_row(page, row, 2)?,
        }
        Ok(())
    });
    let (rows, cut) = filled.await?.finish();
    let Some((snapshot, bounds)) = head else {
        return Err(StoreError::Refused(
            "a window was read without its snapshot".to_owned(),
        ));
    };
    let rows = match bounds.as_deref() {
        None => WindowRows::Whole(Vec::new()),
        Some(_) if cut.is_none() && !rows.is_empty() => WindowRows::Whole(in_order(rows)),
        Some(&[first, first_fresh, last]) => WindowRows::Bounds {
            read: first_ones(RowPage { rows, cut }),
            first,
            first_fresh,
            last,
        },
        Some(other) => {
            return Err(StoreError::Refused(format!(
                "a window has the bounds {other:?}"
            )));
        }
    };
    Ok((snapshot, rows))
}

/// They are in order already, as far as the statement can ask for it.
fn in_order(mut rows: Vec<OutboxRow>) -> Vec<OutboxRow> {
    rows.sort_unstable_by_key(|row| row.id);
    rows
}

/// What can be used of a window that was cut: nothing, should it not be in order.
fn first_ones(page: RowPage) -> RowPage {
    let next = page.cut.as_ref().map_or(RowId::MAX, Cut::next);
    let ids = page.rows.iter().map(|row| row.id).chain([next]);
    if ids.is_sorted() {
        return page;
    }
    RowPage::default()
}

pub(super) async fn open(
    store: &PgOutboxStore,
    outbox: OutboxId,
    seen: &Snapshot,
    page: ReadBound,
) -> Result<Opened, StoreError> {
    let statement = sqlx::query(OPEN)
        .bind(outbox.0)
        .bind(seen.xmax().to_string())
        .bind(texts(seen.in_progress()))
        .bind(i64::from(page.rows))
        .bind(most_text(page.bytes))
        .persistent(store.prepares());
    let (snapshot, rows) = read_window(store.statement().await?, statement, page.bytes).await?;
    note_read(store, outbox, &rows);
    Ok(Opened {
        snapshot: snapshot
            .parse()
            .map_err(|error| StoreError::Refused(format!("{error}")))?,
        rows,
    })
}

pub(super) async fn reopen(
    store: &PgOutboxStore,
    outbox: OutboxId,
    from: &Snapshot,
    to: &Snapshot,
    page: ReadBound,
) -> Result<WindowRows, StoreError> {
    let statement = sqlx::query(REOPEN)
        .bind(outbox.0)
        .bind(from.xmax().to_string())
        .bind(texts(&from.ended_between(to)))
        .bind(i64::from(page.rows))
        .bind(to.xmax().to_string())
        .bind(to.to_string())
        .bind(most_text(page.bytes))
        .persistent(store.prepares());
    let (_, rows) = read_window(store.statement().await?, statement, page.bytes).await?;
    note_read(store, outbox, &rows);
    Ok(rows)
}

pub(super) async fn read_page(
    store: &PgOutboxStore,
    request: &PageRequest,
) -> Result<RowPage, StoreError> {
    let PageRequest {
        outbox,
        from,
        to,
        after,
        first_fresh,
        last,
        bound,
    } = request;
    let fresh_after = (*after).max(first_fresh.saturating_sub(1));
    let statement = sqlx::query(READ_PAGE)
        .bind(outbox.0)
        .bind(from.xmax().to_string())
        .bind(texts(&from.ended_between(to)))
        .bind(to.to_string())
        .bind(after)
        .bind(fresh_after)
        .bind(last)
        .bind(i64::from(bound.rows))
        .bind(most_text(bound.bytes))
        .persistent(store.prepares());
    let page = reading::read_rows(store.statement().await?, statement, bound.bytes).await?;
    store.has_read(*outbox, page.rows.last().map(|row| row.id));
    Ok(page)
}

pub(super) async fn read_rows(
    store: &PgOutboxStore,
    outbox: OutboxId,
    ids: &[RowId],
    bytes: usize,
) -> Result<RowPage, StoreError> {
    if ids.is_empty() {
        return Ok(RowPage::default());
    }
    let statement = sqlx::query(READ_ROWS)
        .bind(outbox.0)
        .bind(ids)
        .bind(most_text(bytes))
        .persistent(store.prepares());
    reading::read_rows(store.statement().await?, statement, bytes).await
}

fn note_read(store: &PgOutboxStore, outbox: OutboxId, rows: &WindowRows) {
    let read = match rows {
        WindowRows::Whole(rows) => rows,
        // The others come page by page.
        WindowRows::Bounds { read, .. } => &read.rows,
    };
    store.has_read(outbox, read.last().map(|row| row.id));
}
