//! Deleting what has outlived its outbox's retention and all have settled.
//!
//! Rules:
//! - a batch is one short transaction: it locks the outbox's row, looks at the
//!   readers, deletes, and writes down what. The lock is what those take who let a
//!   pipeline begin or move back: none of them is overlooked (see the migration);
//! - it waits for no lock: an outbox that is busy is left for the next time;
//! - rows are deleted by their place (a TID scan), whatever the planner believes;
//!   they are found along the primary key from where the last sweep ended, or by
//!   transaction;
//! - a node that is to sweep has the turn, a row with an end. Nothing depends on it
//!   but who does the work.

use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::PgConnection;

use super::store::PgOutboxStore;
use crate::core::ports::{OutboxId, PipelineName, StoreError};
use crate::core::position::RowId;
use crate::core::retention::{
    BatchDone, Deleted, FileReader, Hold, KeptOutbox, Removed, RetentionStore, Survey, Sweep,
    settled_by_all,
};
use crate::core::snapshot::{Snapshot, Xid};

/// How many rows a batch looks at, at most, when a late transaction of many rows
/// lies in its way, as a multiple of what it may delete.
const LOOK_AT_MOST: i64 = 10;

/// A statement must see what was committed before it began, or a reader that has
/// just begun would be overlooked.
const READ_COMMITTED: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED";

const TAKE_TURN: &str = "
INSERT INTO tide.relay_retention_turn AS t (owner, expires_at)
SELECT $1, clock_timestamp() + $2::bigint * interval '1 microsecond'
WHERE NOT EXISTS (
    SELECT FROM tide.relay_retention_turn AS r WHERE r.owner <> $1 AND r.expires_at > clock_timestamp())
ON CONFLICT (only_row) DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at
WHERE t.owner = excluded.owner OR t.expires_at <= clock_timestamp()
RETURNING true";

const LOOK: &str = "
SELECT o.outbox_id, o.name, o.retention_hours,
    greatest(0, extract(epoch FROM clock_timestamp() - tide.outbox_oldest_kept(o.outbox_id)) * 1000000)::bigint
FROM tide.outbox AS o ORDER BY o.name";

/// $1 outboxes, $2 and $3 the pipelines of a file and the names of their outboxes.
const LOOK_FOR_HOLDS: &str = "
SELECT h.outbox_id, h.pipeline, h.disabled,
    greatest(0, extract(epoch FROM clock_timestamp() - h.oldest_at - h.retention) * 1000000)::bigint
FROM (
    SELECT r.outbox_id, r.pipeline, coalesce(NOT d.enabled, false) AS disabled, u.oldest_at,
        o.retention_hours * interval '1 hour' AS retention
    FROM (
        SELECT * FROM tide.outbox_reader
        UNION ALL
        SELECT o.outbox_id, f.pipeline, '1:1:'::pg_snapshot
        FROM unnest($2::text[], $3::text[]) AS f (pipeline, outbox) JOIN tide.outbox AS o ON o.name = f.outbox
        WHERE NOT EXISTS (
            SELECT FROM tide.outbox_reader AS known
            WHERE known.pipeline = f.pipeline AND known.outbox_id = o.outbox_id)
    ) AS r
    JOIN tide.outbox AS o ON o.outbox_id = r.outbox_id
    LEFT JOIN tide.relay_pipeline AS d ON d.name = r.pipeline
    CROSS JOIN LATERAL tide.outbox_unseen(r.outbox_id, r.base, 1) AS u
    WHERE r.outbox_id = ANY ($1::int[])
) AS h
WHERE h.oldest_at < clock_timestamp() - h.retention
ORDER BY h.outbox_id, h.pipeline";

const LOCK_OUTBOX: &str = "
SELECT o.retention_hours FROM tide.outbox AS o WHERE o.outbox_id = $1 AND tide.relay_is_here(o.place) FOR UPDATE SKIP LOCKED";

const READERS: &str = "
SELECT r.pipeline, r.base::text FROM tide.outbox_reader AS r WHERE r.outbox_id = $1";

const SWEEP_STATE: &str = "
SELECT t.swept_id, t.left_behind::text[], t.removed_rows, t.removed_id, t.removed_xact::text, t.removed_seen::text
FROM tide.outbox_retention AS t WHERE t.outbox_id = $1";

/// $1 outbox, $2 swept, $3 what all have settled, $4 hours, $5 rows to delete, $6
/// rows to look at. The sweep ends before the first row that is too young or of a
/// transaction that some reader's base knows nothing of; it passes over rows of
/// transactions that were running.
pub(super) const SWEEP: &str = "
WITH bounds AS MATERIALIZED (
    SELECT $3::text::pg_snapshot AS settled, clock_timestamp() - $4::int * interval '1 hour' AS cutoff
), looked_at AS MATERIALIZED (
    SELECT m.ctid AS place, m.id, m.xact, m.created_at FROM tide.outbox_message AS m
    WHERE m.outbox_id = $1 AND m.id > $2 ORDER BY m.id LIMIT $6
), judged AS MATERIALIZED (
    SELECT l.place, l.id, l.created_at < b.cutoff AND l.xact < pg_snapshot_xmax(b.settled) AS may_be_passed,
        pg_visible_in_snapshot(l.xact, b.settled) AS is_settled
    FROM looked_at AS l CROSS JOIN bounds AS b
), wanted AS MATERIALIZED (
    SELECT j.place FROM judged AS j
    WHERE j.is_settled AND j.id < coalesce(
        (SELECT min(ends.id) FROM judged AS ends WHERE NOT ends.may_be_passed), 9223372036854775807)
    ORDER BY j.id LIMIT $5
), deleted AS (
    DELETE FROM tide.outbox_message AS m
    WHERE m.ctid = ANY (ARRAY(SELECT w.place FROM wanted AS w)) AND m.outbox_id = $1
    RETURNING m.id, m.xact
)
SELECT (SELECT count(*) FROM deleted), (SELECT max(d.id) FROM deleted AS d),
    (SELECT d.xact::text FROM deleted AS d ORDER BY d.xact DESC LIMIT 1),
    (SELECT count(*) FROM looked_at), (SELECT bool_or(NOT j.may_be_passed) FROM judged AS j)";

/// $1 outbox, $2 swept, $3 transactions, $4 hours, $5 rows to delete.
pub(super) const FETCH: &str = "
WITH deleted AS (
    DELETE FROM tide.outbox_message AS m
    WHERE m.ctid = ANY (ARRAY(
        SELECT of_transaction.place FROM unnest($3::text[]::xid8[]) AS late (xid) CROSS JOIN LATERAL (
            SELECT m.ctid AS place FROM tide.outbox_message AS m
            WHERE m.outbox_id = $1 AND m.xact >= late.xid AND m.xact <= late.xid AND m.id <= $2
                AND m.created_at < clock_timestamp() - $4::int * interval '1 hour'
            ORDER BY m.xact, m.id LIMIT $5
        ) AS of_transaction
        LIMIT $5
    )) AND m.outbox_id = $1
    RETURNING m.id, m.xact
)
SELECT (SELECT count(*) FROM deleted), (SELECT max(d.id) FROM deleted AS d),
    (SELECT d.xact::text FROM deleted AS d ORDER BY d.xact DESC LIMIT 1)";

/// Which of these transactions still have rows among the swept ids.
const REMAINING: &str = "
SELECT late.xid FROM unnest($3::text[]) AS late (xid) CROSS JOIN LATERAL (
    SELECT m.id FROM tide.outbox_message AS m
    WHERE m.outbox_id = $1 AND m.xact >= late.xid::xid8 AND m.xact <= late.xid::xid8 AND m.id <= $2
    ORDER BY m.xact, m.id LIMIT 1
) AS of_transaction";

const REMEMBER: &str = "
INSERT INTO tide.outbox_retention AS t
    (outbox_id, swept_id, left_behind, removed_rows, removed_id, removed_xact, removed_seen, removed_at)
VALUES ($1, $2, $3::text[]::xid8[], $4, $5, $6::text::xid8, $7::text::pg_snapshot,
    CASE WHEN $8 THEN clock_timestamp() END)
ON CONFLICT (outbox_id) DO UPDATE
SET swept_id = excluded.swept_id, left_behind = excluded.left_behind, removed_rows = excluded.removed_rows,
    removed_id = excluded.removed_id, removed_xact = excluded.removed_xact, removed_seen = excluded.removed_seen,
    removed_at = coalesce(excluded.removed_at, t.removed_at)";

pub(super) fn unreadable(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Refused(format!(
        "what retention has written into tide.outbox_retention cannot be read: {error}"
    ))
}

pub(super) fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn microseconds(number: i64) -> Duration {
    Duration::from_micros(count(number))
}

fn xids(texts: &[String]) -> Result<Vec<Xid>, StoreError> {
    let xids: Result<Vec<Xid>, _> = texts.iter().map(|text| text.parse()).collect();
    xids.map_err(|error| unreadable(&error))
}

fn texts(xids: &[Xid]) -> Vec<String> {
    xids.iter().map(Xid::to_string).collect()
}

fn deleted(rows: i64, id: Option<RowId>, xact: Option<String>) -> Result<Deleted, StoreError> {
    let xact = xact.as_deref().unwrap_or("0").parse();
    Ok(Deleted {
        rows: count(rows),
        id: id.unwrap_or(0),
        xact: xact.map_err(|error| unreadable(&error))?,
    })
}

// === impl RetentionStore ===

impl RetentionStore for PgOutboxStore {
    fn survey<'a>(
        &'a self,
        node: &'a str,
        turn: Duration,
        of_file: &'a [FileReader],
    ) -> BoxFuture<'a, Result<Survey, StoreError>> {
        self.bounded("retention_survey", 1, survey(self, node, turn, of_file))
    }

    fn remove_batch<'a>(
        &'a self,
        outbox: OutboxId,
        of_file: &'a [PipelineName],
        rows: u32,
    ) -> BoxFuture<'a, Result<BatchDone, StoreError>> {
        self.bounded(
            "retention_batch",
            1,
            remove_batch(self, outbox, of_file, rows),
        )
    }
}

async fn survey(
    store: &PgOutboxStore,
    node: &str,
    turn: Duration,
    of_file: &[FileReader],
) -> Result<Survey, StoreError> {
    let mut session = store.statement().await?;
    let taken: Option<bool> = sqlx::query_scalar(TAKE_TURN)
        .bind(node)
        .bind(i64::try_from(turn.as_micros()).unwrap_or(i64::MAX))
        .persistent(store.prepares())
        .fetch_optional(session.connection())
        .await?;
    if taken.is_none() {
        session.finish().await?;
        return Ok(Survey::NotOurs);
    }
    let found: Vec<(i32, String, Option<i32>, Option<i64>)> = sqlx::query_as(LOOK)
        .persistent(store.prepares())
        .fetch_all(session.connection())
        .await?;
    let mut outboxes: Vec<KeptOutbox> = found
        .into_iter()
        .map(|(id, name, hours, oldest)| KeptOutbox {
            id: OutboxId(id),
            name: name.into(),
            retention: hours.map(|hours| Duration::from_secs(3600 * count(hours.into()))),
            oldest: oldest.map(microseconds),
            holds: Vec::new(),
        })
        .collect();
    let due = outboxes.iter().filter(|outbox| outbox.is_due());
    let due: Vec<i32> = due.map(|outbox| outbox.id.0).collect();
    let (pipelines, names): (Vec<&str>, Vec<&str>) = of_file
        .iter()
        .map(|reader| (&*reader.pipeline, &*reader.outbox))
        .unzip();
    let holds: Vec<(i32, String, bool, i64)> = if due.is_empty() {
        Vec::new()
    } else {
        sqlx::query_as(LOOK_FOR_HOLDS)
            .bind(due)
            .bind(pipelines)
            .bind(names)
            .persistent(store.prepares())
            .fetch_all(session.connection())
            .await?
    };
    session.finish().await?;
    for (outbox, pipeline, disabled, held_for) in holds {
        let holder = outboxes.iter_mut().find(|known| known.id.0 == outbox);
        if let Some(holder) = holder {
            holder.holds.push(Hold {
                pipeline: pipeline.into(),
                disabled,
                held_for: microseconds(held_for),
            });
        }
    }
    Ok(Survey::Ours(outboxes))
}

async fn remove_batch(
    store: &PgOutboxStore,
    outbox: OutboxId,
    of_file: &[PipelineName],
    rows: u32,
) -> Result<BatchDone, StoreError> {
    let mut session = store.transaction().await?;
    let done = remove_locked(store, session.connection(), outbox, of_file, rows).await?;
    // Also when nothing was done: a transaction that is just dropped keeps its lock
    // until its connection is used again.
    session.finish().await?;
    Ok(done)
}

async fn remove_locked(
    store: &PgOutboxStore,
    connection: &mut PgConnection,
    outbox: OutboxId,
    of_file: &[PipelineName],
    rows: u32,
) -> Result<BatchDone, StoreError> {
    sqlx::query(READ_COMMITTED)
        .persistent(store.prepares())
        .execute(&mut *connection)
        .await?;
    let locked: Option<Option<i32>> = sqlx::query_scalar(LOCK_OUTBOX)
        .bind(outbox.0)
        .persistent(store.prepares())
        .fetch_optional(&mut *connection)
        .await?;
    let Some(hours) = locked.flatten() else {
        // Dropped, busy, or kept for ever.
        return Ok(BatchDone::default());
    };
    let Some(settled) = settled(store, connection, outbox, of_file).await? else {
        return Ok(BatchDone::default());
    };
    let mut batch = Batch {
        store,
        outbox,
        hours,
        rows: i64::from(rows),
        settled,
        sweep: sweep_state(store, connection, outbox).await?,
    };
    let before = batch.sweep.clone();
    let late = batch.fetch(connection).await?;
    let left = batch.rows - i64::try_from(late).unwrap_or(batch.rows);
    let swept = if left > 0 {
        batch.sweep(connection, left).await?
    } else {
        0
    };
    let done = BatchDone {
        rows: late + swept,
        more: late + swept >= u64::from(rows),
    };
    if batch.sweep != before {
        batch.remember(connection, done.rows > 0).await?;
    }
    Ok(done)
}

/// What all readers have settled.
async fn settled(
    store: &PgOutboxStore,
    connection: &mut PgConnection,
    outbox: OutboxId,
    of_file: &[PipelineName],
) -> Result<Option<Snapshot>, StoreError> {
    let readers: Vec<(String, String)> = sqlx::query_as(READERS)
        .bind(outbox.0)
        .persistent(store.prepares())
        .fetch_all(connection)
        .await?;
    let mut bases = Vec::with_capacity(readers.len());
    for (pipeline, base) in &readers {
        let base: Snapshot = base.parse().map_err(|error| {
            StoreError::Refused(format!(
                "the position of pipeline {pipeline:?} cannot be read: {error}"
            ))
        })?;
        bases.push(base);
    }
    let is_known = |name: &PipelineName| readers.iter().any(|(known, _)| **known == **name);
    if !of_file.iter().all(is_known) {
        bases.push(Snapshot::nothing());
    }
    Ok(settled_by_all(&bases))
}

async fn sweep_state(
    store: &PgOutboxStore,
    connection: &mut PgConnection,
    outbox: OutboxId,
) -> Result<Sweep, StoreError> {
    let found: Option<(i64, Vec<String>, i64, i64, String, String)> = sqlx::query_as(SWEEP_STATE)
        .bind(outbox.0)
        .persistent(store.prepares())
        .fetch_optional(connection)
        .await?;
    let Some((swept_id, left_behind, rows, id, xact, seen)) = found else {
        return Ok(Sweep::start());
    };
    Ok(Sweep {
        swept_id,
        left_behind: xids(&left_behind)?,
        removed: Removed {
            rows: count(rows),
            id,
            xact: xact.parse().map_err(|error| unreadable(&error))?,
            seen: seen.parse().map_err(|error| unreadable(&error))?,
        },
    })
}

/// A batch under way: the outbox is locked.
struct Batch<'a> {
    store: &'a PgOutboxStore,
    outbox: OutboxId,
    hours: i32,
    rows: i64,
    settled: Snapshot,
    sweep: Sweep,
}

impl Batch<'_> {
    /// Deletes rows of transactions that were left behind.
    async fn fetch(&mut self, connection: &mut PgConnection) -> Result<u64, StoreError> {
        let due = self.sweep.due(&self.settled);
        if due.is_empty() {
            return Ok(0);
        }
        let (rows, id, xact) = sqlx::query_as(FETCH)
            .bind(self.outbox.0)
            .bind(self.sweep.swept_id)
            .bind(texts(&due))
            .bind(self.hours)
            .bind(self.rows)
            .persistent(self.store.prepares())
            .fetch_one(&mut *connection)
            .await?;
        let remaining: Vec<String> = sqlx::query_scalar(REMAINING)
            .bind(self.outbox.0)
            .bind(self.sweep.swept_id)
            .bind(texts(&due))
            .persistent(self.store.prepares())
            .fetch_all(connection)
            .await?;
        let deleted = deleted(rows, id, xact)?;
        self.sweep
            .fetched(deleted, &self.settled, &due, &xids(&remaining)?);
        Ok(deleted.rows)
    }

    /// Deletes rows along the ids.
    async fn sweep(&mut self, connection: &mut PgConnection, most: i64) -> Result<u64, StoreError> {
        let mut look_at = most;
        loop {
            let (rows, id, xact, looked_at, ends): (_, _, _, i64, Option<bool>) =
                sqlx::query_as(SWEEP)
                    .bind(self.outbox.0)
                    .bind(self.sweep.swept_id)
                    .bind(self.settled.to_string())
                    .bind(self.hours)
                    .bind(most)
                    .bind(look_at)
                    .persistent(self.store.prepares())
                    .fetch_one(&mut *connection)
                    .await?;
            let deleted = deleted(rows, id, xact)?;
            self.sweep.swept(deleted, &self.settled);
            let only_late_rows = deleted.rows == 0 && ends != Some(true) && looked_at == look_at;
            if !only_late_rows || look_at >= most * LOOK_AT_MOST {
                return Ok(deleted.rows);
            }
            look_at = most * LOOK_AT_MOST;
        }
    }

    async fn remember(
        &self,
        connection: &mut PgConnection,
        has_deleted: bool,
    ) -> Result<(), StoreError> {
        let removed = &self.sweep.removed;
        sqlx::query(REMEMBER)
            .bind(self.outbox.0)
            .bind(self.sweep.swept_id)
            .bind(texts(&self.sweep.left_behind))
            .bind(i64::try_from(removed.rows).unwrap_or(i64::MAX))
            .bind(removed.id)
            .bind(removed.xact.to_string())
            .bind(removed.seen.to_string())
            .bind(has_deleted)
            .persistent(self.store.prepares())
            .execute(connection)
            .await?;
        Ok(())
    }
}
