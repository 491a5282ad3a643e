//! The books of a world at its end: `published committed = delivered + parked +
//! pending`, from SQL, from the metrics, and from the stream itself.
//!
//! - SQL: rows in the outbox and removed by retention; settled as the positions say;
//!   pending as `tide.outbox_lag` says, which counts in another way; parked as
//!   the dead letters say;
//! - stream: every settled row is in it or parked, every removed one too; and once
//!   the relay has drained, nothing else is;
//! - metrics: what the relays said before they ended. A row that was sent again may
//!   be counted again: as often, at most, as the stream has it more than once.
//!   Relays that were killed said nothing, and of several relays one has ended under
//!   load; then SQL and stream are compared alone.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use sqlx::{FromRow, PgPool};
use tidegate::demo::delivered::Delivered;
use tokio::time::Instant;

use super::{STREAM, World};

/// How long what is settled may take to be read from the stream.
const PATIENCE: Duration = Duration::from_secs(20);

/// A pipeline and what its position says of its outbox.
#[derive(Debug, FromRow)]
struct Reader {
    pipeline: String,
    outbox: String,
    /// The stream and the format; of the relay's file, if they are NULL.
    stream: Option<String>,
    format: Option<String>,
    published: i64,
    /// Retention had removed so many rows when it began: they were not for it.
    began_after: i64,
    removed: i64,
    pending: i64,
    pending_at_least: bool,
    open_windows: i32,
    has_marks: bool,
}

const READERS: &str = "
SELECT p.pipeline, o.name AS outbox, r.config ->> 'stream_name' AS stream, r.config ->> 'format' AS format,
    (SELECT count(*) FROM tide.outbox_message AS m WHERE m.outbox_id = o.outbox_id)
        + coalesce(t.removed_rows, 0) AS published,
    p.began_after, coalesce(t.removed_rows, 0) AS removed,
    l.pending, l.pending_at_least, jsonb_array_length(p.open_windows) AS open_windows,
    jsonb_typeof(p.marks) = 'object' AS has_marks
FROM tide.relay_position AS p
JOIN tide.outbox AS o ON o.outbox_id = p.outbox_id
JOIN tide.outbox_lag AS l ON l.pipeline = p.pipeline
LEFT JOIN tide.outbox_retention AS t ON t.outbox_id = o.outbox_id
LEFT JOIN tide.relay_pipeline AS r ON r.name = p.pipeline
ORDER BY p.pipeline";

/// Rows that are still there and settled: visible in the base, or of the first open
/// window up to the settled id. (What marks say is left out: such rows count as
/// pending.)
const SETTLED: &str = "
SELECT m.id FROM tide.outbox_message AS m JOIN tide.relay_position AS p ON p.outbox_id = m.outbox_id
WHERE p.pipeline = $1 AND (pg_visible_in_snapshot(m.xact, p.base)
    OR (m.id <= p.settled_id AND pg_visible_in_snapshot(m.xact, (p.open_windows #>> '{0,snapshot}')::pg_snapshot)))";

const PRESENT: &str = "
SELECT m.id FROM tide.outbox_message AS m JOIN tide.outbox AS o ON o.outbox_id = m.outbox_id WHERE o.name = $1";

/// Letters that are not in the stream.
const PARKED: &str = "
SELECT l.row_id FROM tide.relay_dead_letter AS l WHERE l.pipeline = $1 AND l.state <> 'delivered'";

async fn ids(pool: &PgPool, sql: &'static str, of: &str) -> BTreeSet<i64> {
    let found: Vec<i64> = sqlx::query_scalar(sql)
        .bind(of)
        .fetch_all(pool)
        .await
        .expect("the books in SQL");
    found.into_iter().collect()
}

/// What one outbox should have brought into the stream.
#[derive(Debug, Default)]
struct Expected {
    settled: BTreeSet<i64>,
    parked: BTreeSet<i64>,
    present: BTreeSet<i64>,
    removed: usize,
    is_drained: bool,
}

/// Compares the books; a difference fails the test.
pub(super) async fn compare(world: &World) {
    let pool = &world.pool;
    let has_letters: bool =
        sqlx::query_scalar("SELECT to_regclass('tide.relay_dead_letter') IS NOT NULL")
            .fetch_one(pool)
            .await
            .expect("the database answers");
    let readers: Vec<Reader> = sqlx::query_as(READERS)
        .fetch_all(pool)
        .await
        .expect("the readers");
    let mut outboxes: BTreeMap<String, Expected> = BTreeMap::new();
    let (mut settled_by_sql, mut parked_by_sql) = (0, 0);
    for reader in &readers {
        let settled = ids(pool, SETTLED, &reader.pipeline).await;
        let parked = if has_letters {
            ids(pool, PARKED, &reader.pipeline).await
        } else {
            BTreeSet::new()
        };
        // Removed rows were settled by whoever began before they went.
        let gone = reader.removed - reader.began_after;
        let is_exact = !reader.pending_at_least && !reader.has_marks;
        assert!(
            !is_exact
                || reader.published - reader.began_after
                    == settled.len() as i64 + gone + reader.pending,
            "SQL: published is not settled ({} and {gone} removed) and pending: {reader:#?}",
            settled.len()
        );
        settled_by_sql += settled.len() as i64 + gone;
        parked_by_sql += parked.len() as i64;
        let is_read = reader.stream.as_deref() == Some(STREAM)
            && reader.format.as_deref().unwrap_or("native") == "native";
        if !is_read {
            continue;
        }
        let is_drained = reader.open_windows == 0;
        let expected = outboxes.entry(reader.outbox.clone()).or_insert(Expected {
            present: ids(pool, PRESENT, &reader.outbox).await,
            removed: usize::try_from(gone).expect("not negative"),
            is_drained,
            ..Expected::default()
        });
        expected.is_drained &= is_drained;
        expected.settled.extend(settled);
        expected.parked.extend(parked);
    }
    let duplicates = compare_stream(world, &outboxes).await;
    let said = world.ledger.said();
    // Several relays: some ended under load, and what they delivered while they
    // drained nobody has asked them.
    if said.relays != 1 || said.complete != 1 {
        return;
    }
    let settled = u64::try_from(settled_by_sql).expect("not negative");
    #[expect(clippy::cast_possible_truncation, reason = "counters of few rows")]
    let (told, told_parked) = ((said.delivered + said.parked) as u64, said.parked as i64);
    let again = if readers.iter().all(|reader| {
        outboxes.contains_key(&reader.outbox) && reader.stream.as_deref() == Some(STREAM)
    }) {
        duplicates
    } else {
        // Of other streams it is not known what came twice.
        u64::MAX - settled
    };
    assert!(
        (settled..=settled + again).contains(&told),
        "metrics: {said:?}, but {settled} rows are settled (SQL) and {duplicates} came again (stream)"
    );
    assert!(
        told_parked == 0 || told_parked >= parked_by_sql,
        "metrics: {said:?}, but {parked_by_sql} letters"
    );
}

/// Compares what was read from the stream; answers how many records came again.
async fn compare_stream(world: &World, outboxes: &BTreeMap<String, Expected>) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut arrived: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
        let records = world.arrived();
        let natives: Vec<Delivered> = records
            .iter()
            .filter_map(|record| Delivered::parse(record).ok())
            .collect();
        for record in &natives {
            arrived.entry(&record.outbox).or_default().insert(record.id);
        }
        let differences: Vec<String> = outboxes
            .iter()
            .filter_map(|(outbox, expected)| {
                let none = BTreeSet::new();
                difference(expected, arrived.get(outbox.as_str()).unwrap_or(&none))
                    .map(|what| format!("{outbox}: {what}"))
            })
            .collect();
        if differences.is_empty() {
            let distinct: HashSet<_> = natives.iter().map(Delivered::event).collect();
            return (natives.len() - distinct.len()) as u64;
        }
        assert!(
            Instant::now() < deadline,
            "the stream and SQL differ: {differences:#?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn difference(expected: &Expected, arrived: &BTreeSet<i64>) -> Option<String> {
    let some = |ids: Vec<&i64>| format!("{} rows, such as {:?}", ids.len(), ids.first());
    let missing: Vec<&i64> = expected
        .settled
        .iter()
        .filter(|id| !arrived.contains(id) && !expected.parked.contains(id))
        .collect();
    if !missing.is_empty() {
        return Some(format!(
            "settled, and neither in the stream nor parked: {}",
            some(missing)
        ));
    }
    let gone = arrived.iter().filter(|id| !expected.present.contains(id));
    let parked_and_gone = expected.parked.difference(&expected.present);
    let accounted = gone.count() + parked_and_gone.filter(|id| !arrived.contains(id)).count();
    if accounted != expected.removed {
        return Some(format!(
            "{} rows were removed, {accounted} rows that are gone are in the stream or parked",
            expected.removed
        ));
    }
    let unsettled: Vec<&i64> = arrived
        .iter()
        .filter(|id| expected.present.contains(id) && !expected.settled.contains(id))
        .collect();
    if expected.is_drained && !unsettled.is_empty() {
        return Some(format!("in the stream and pending: {}", some(unsettled)));
    }
    None
}
