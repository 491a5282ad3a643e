//! Whether outboxes have anything new, and how much waits in one.
//!
//! One statement asks for all outboxes of a database. It looks at the first index
//! entry at or after xmax of what was seen, and at the first one of each late
//! transaction that has ended. A target must be moved up to the probe's snapshot
//! when it had no news: rows of a transaction that still runs are then looked up
//! by that transaction, instead of being walked over by every probe.

use std::time::Duration;

use tokio::time::Instant;

use super::quiet::Ids;
use super::store::PgOutboxStore;
use crate::core::ports::{Backlog, OutboxId, ProbeReport, ProbeTarget, StoreError};
use crate::core::snapshot::Snapshot;

/// `ORDER BY xact, id` makes the index by transaction the only one that fits,
/// whatever the statistics say; EXISTS would drop the order.
pub(super) const PROBE: &str = "
SELECT pg_current_snapshot()::text, ARRAY(
    SELECT (
        SELECT m.id FROM tide.outbox_message AS m
        WHERE m.outbox_id = target.outbox_id AND m.xact >= pg_snapshot_xmax(target.seen)
            AND m.xact < (SELECT pg_snapshot_xmax(pg_current_snapshot()))
        ORDER BY m.xact, m.id LIMIT 1
    ) IS NOT NULL OR (
        SELECT of_transaction.id
        FROM pg_snapshot_xip(target.seen) AS late (xid) CROSS JOIN LATERAL (
            SELECT m.id FROM tide.outbox_message AS m
            WHERE m.outbox_id = target.outbox_id AND m.xact >= late.xid AND m.xact <= late.xid
            ORDER BY m.xact, m.id LIMIT 1
        ) AS of_transaction
        WHERE pg_visible_in_snapshot(late.xid, pg_current_snapshot())
        LIMIT 1
    ) IS NOT NULL
    FROM (
        SELECT t.outbox_id, t.seen::pg_snapshot AS seen, t.place
        FROM unnest($1::int[], $2::text[]) WITH ORDINALITY AS t (outbox_id, seen, place)
        OFFSET 0
    ) AS target
    ORDER BY target.place
)";

/// How far the sequence of ids is, read once the statement's snapshot is taken, and then
/// which transaction id is the next: `age` counts from there for a transaction without
/// one, and no snapshot says it (tests/store.rs holds it against what is handed out).
const DRAWN: &str = "
SELECT s.taken, s.last_value, s.is_called, age('3'::xid)
FROM (
    SELECT pg_current_snapshot()::text AS taken, d.last_value, d.is_called
    FROM tide.outbox_drawn AS d OFFSET 0
) AS s";

const BACKLOG: &str = "
SELECT u.unseen,
    greatest(0, extract(epoch FROM clock_timestamp() - u.oldest_at) * 1000000)::bigint
FROM tide.outbox_unseen($1, $2::text::pg_snapshot, $3) AS u";

/// Looks into the outboxes, unless one look answers for all: see [`super::quiet`].
pub(super) async fn probe(
    store: &PgOutboxStore,
    targets: &[ProbeTarget],
) -> Result<ProbeReport, StoreError> {
    if !store.quiet_times().may_answer(targets) {
        return look(store, targets).await;
    }
    let (snapshot, ids) = match drawn(store).await {
        Ok(answer) => answer,
        // A schema or a role from before there was such a view.
        Err(StoreError::Refused(_)) => return look(store, targets).await,
        Err(error) => return Err(error),
    };
    let (at, server) = (Instant::now(), store.generation());
    let is_quiet = {
        let mut quiet_times = store.quiet_times();
        quiet_times.of_server(server);
        quiet_times.nothing_new(targets, &snapshot, ids, at)
    };
    if is_quiet {
        let news = vec![false; targets.len()];
        return Ok(ProbeReport {
            snapshot,
            looked: false,
            news,
        });
    }
    let report = look(store, targets).await?;
    // Otherwise the sequence was another server's.
    if store.generation() == server && !report.news.contains(&true) {
        store.quiet_times().looked(&report.snapshot, ids, at);
    }
    Ok(report)
}

async fn drawn(store: &PgOutboxStore) -> Result<(Snapshot, Ids), StoreError> {
    let mut session = store.statement().await?;
    let (snapshot, last, is_called, age): (String, i64, bool, i32) = sqlx::query_as(DRAWN)
        .persistent(store.prepares())
        .fetch_one(session.connection())
        .await?;
    session.finish().await?;
    let snapshot = parse(&snapshot)?;
    let ids = Ids::read((last, is_called), age, &snapshot);
    Ok((snapshot, ids))
}

fn parse(snapshot: &str) -> Result<Snapshot, StoreError> {
    snapshot
        .parse()
        .map_err(|error| StoreError::Refused(format!("{error}")))
}

async fn look(store: &PgOutboxStore, targets: &[ProbeTarget]) -> Result<ProbeReport, StoreError> {
    let outboxes: Vec<i32> = targets.iter().map(|target| target.outbox.0).collect();
    let seen: Vec<String> = targets
        .iter()
        .map(|target| target.seen.to_string())
        .collect();
    let mut session = store.statement().await?;
    let (snapshot, news): (String, Vec<bool>) = sqlx::query_as(PROBE)
        .bind(outboxes)
        .bind(seen)
        .persistent(store.prepares())
        .fetch_one(session.connection())
        .await?;
    session.finish().await?;
    if news.len() != targets.len() {
        return Err(StoreError::Refused(format!(
            "a probe of {} outboxes was answered for {}",
            targets.len(),
            news.len()
        )));
    }
    Ok(ProbeReport {
        snapshot: parse(&snapshot)?,
        looked: true,
        news,
    })
}

pub(super) async fn backlog(
    store: &PgOutboxStore,
    outbox: OutboxId,
    seen: &Snapshot,
    bound: u32,
) -> Result<Backlog, StoreError> {
    let bound = i32::try_from(bound).unwrap_or(i32::MAX);
    let mut session = store.statement().await?;
    let (rows, oldest): (i64, Option<i64>) = sqlx::query_as(BACKLOG)
        .bind(outbox.0)
        .bind(seen.to_string())
        .bind(bound)
        .persistent(store.prepares())
        .fetch_one(session.connection())
        .await?;
    session.finish().await?;
    Ok(Backlog {
        rows: u64::try_from(rows).unwrap_or(0),
        at_least: rows >= i64::from(bound),
        oldest: Duration::from_micros(oldest.and_then(|age| u64::try_from(age).ok()).unwrap_or(0)),
    })
}
