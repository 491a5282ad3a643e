//! `tide.relay_rebase()` against a model: histories at random, dumped at random
//! moments, with positions at random moments, beside messages that are published
//! in the new database.

use std::collections::BTreeSet;

use fastrand::Rng;
use sqlx::{AssertSqlSafe, PgPool};
use tidegate::core::ports::{ClaimRequest, OutboxId, OutboxStore};
use tidegate::core::position::RowId;
use tidegate::core::snapshot::{Snapshot, Xid};
use tidegate::postgres::PgOutboxStore;
use tidegate::postgres::rebase::rebase;

use crate::database;
use crate::outbox::{Fixture, LEASE, granted};
use crate::rebase::read_on;

const CASES: u64 = 60;

/// A transaction of the old database that committed: times are steps.
struct Old {
    xid: Xid,
    began: u32,
    ended: u32,
    rows: Vec<RowId>,
}

/// What the old database saw at a step.
fn snapshot_at(history: &[Old], first_xid: Xid, step: u32) -> Snapshot {
    let begun: Vec<&Old> = history.iter().filter(|old| old.began <= step).collect();
    let running: Vec<Xid> = begun
        .iter()
        .filter(|old| old.ended > step)
        .map(|old| old.xid)
        .collect();
    let xmax = first_xid + begun.len() as u64;
    let xmin = running.first().copied().unwrap_or(xmax);
    Snapshot::new(xmin, xmax, running).expect("a snapshot")
}

async fn number(pool: &PgPool, sql: String) -> i64 {
    let number = sqlx::query_scalar(AssertSqlSafe(sql.clone()))
        .fetch_one(pool)
        .await;
    number.unwrap_or_else(|error| panic!("{sql}\n{error}"))
}

/// A row of the old database arrives as a restore writes it: in one statement for
/// all, with its transaction id of old.
async fn restore(pool: &PgPool, outbox: i32, rows: &[(RowId, Xid)]) {
    if rows.is_empty() {
        return;
    }
    let values: Vec<String> = rows
        .iter()
        .map(|(id, xid)| format!("({outbox}, '{xid}', {id}, 'k', '1')"))
        .collect();
    let sql = format!(
        "INSERT INTO tide.outbox_message (outbox_id, xact, id, dedup_key, payload) OVERRIDING SYSTEM VALUE VALUES {}",
        values.join(", ")
    );
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(pool)
        .await
        .expect("restored");
}

async fn publish(pool: &PgPool, outbox: &str, random: &mut Rng) -> RowId {
    let mut transaction = pool.begin().await.expect("begun");
    if random.bool() {
        sqlx::raw_sql("SELECT pg_current_xact_id(); SAVEPOINT s")
            .execute(&mut *transaction)
            .await
            .expect("a savepoint");
    }
    let id = sqlx::query_scalar("SELECT tide.outbox_publish($1, '1')")
        .bind(outbox)
        .fetch_one(&mut *transaction)
        .await
        .expect("published");
    transaction.commit().await.expect("committed");
    id
}

async fn one_case(pool: &PgPool, seed: u64) {
    let mut random = Rng::with_seed(seed);
    let outbox = format!("model_{seed}");
    let id = number(
        pool,
        format!("SELECT tide.outbox_create('{outbox}')::bigint"),
    )
    .await;
    let id = i32::try_from(id).expect("small");
    let present = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint".to_owned();
    let present = number(pool, present).await.unsigned_abs();

    // The old database's history: transactions overlap, ids are drawn inside.
    let count = random.u32(0..25);
    let first_xid = match random.u8(0..3) {
        0 => present + random.u64(1..500),
        1 => present.saturating_sub(random.u64(0..40)).max(20),
        _ => random.u64(3..present.saturating_sub(60).max(20)),
    };
    let mut history: Vec<Old> = Vec::new();
    let mut inserts: Vec<(u32, usize)> = Vec::new();
    let mut step = 0;
    for place in 0..count {
        step += random.u32(1..4);
        let ended = step + random.u32(1..15);
        for _ in 0..random.u32(1..4) {
            inserts.push((random.u32(step..ended), place as usize));
        }
        history.push(Old {
            xid: first_xid + u64::from(place),
            began: step,
            ended,
            rows: Vec::new(),
        });
    }
    inserts.sort_unstable();
    let first_id = number(
        pool,
        "SELECT last_value FROM tide.outbox_message_id_seq".to_owned(),
    )
    .await
        + 1;
    let ids_drawn = i64::try_from(inserts.len()).expect("few");
    for (n, (_, place)) in inserts.iter().enumerate() {
        history[*place]
            .rows
            .push(first_id + i64::try_from(n).expect("few"));
    }
    number(
        pool,
        format!(
            "SELECT setval('tide.outbox_message_id_seq', {})",
            first_id + ids_drawn
        ),
    )
    .await;
    let dumped_at = random.u32(0..step + 20);
    let dumped: Vec<(RowId, Xid)> = history
        .iter()
        .filter(|old| old.ended <= dumped_at)
        .flat_map(|old| old.rows.iter().map(|id| (*id, old.xid)))
        .collect();
    restore(pool, id, &dumped).await;
    let distinct: BTreeSet<Xid> = dumped.iter().map(|(_, xid)| *xid).collect();

    // Positions of before the dump.
    let mut settled: Vec<(String, BTreeSet<RowId>)> = Vec::new();
    for n in 0..random.usize(0..4) {
        let base_at = random.u32(0..=dumped_at);
        let window_at = random.u32(base_at..=dumped_at);
        let base = snapshot_at(&history, first_xid, base_at);
        let window = snapshot_at(&history, first_xid, window_at);
        let has_window = random.bool();
        let settled_id = if has_window && random.bool() {
            first_id + random.i64(0..=ids_drawn)
        } else {
            0
        };
        let read = |(_, xid): &&(RowId, Xid)| window.sees(*xid);
        let highest = dumped.iter().filter(read).map(|(id, _)| *id).max();
        let windows = if has_window {
            format!(r#"[{{"number": 7, "snapshot": "{window}"}}]"#)
        } else {
            "[]".to_owned()
        };
        let pipeline = format!("{outbox}_{n}");
        let sql = format!(
            "INSERT INTO tide.relay_position (pipeline, outbox_id, epoch, base, last_number, open_windows, settled_id, \
             place, highest_id) VALUES ('{pipeline}', {id}, 3, '{base}', 7, '{windows}', {settled_id}, \
             gen_random_uuid(), {})",
            highest.unwrap_or(0)
        );
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(pool)
            .await
            .expect("a position");
        let is_settled = |(id, xid): &&(RowId, Xid)| {
            base.sees(*xid) || has_window && window.sees(*xid) && *id <= settled_id
        };
        let of_it = dumped.iter().filter(is_settled).map(|(id, _)| *id);
        settled.push((pipeline, of_it.collect()));
    }
    let mark = format!(
        "UPDATE tide.outbox SET place = gen_random_uuid() WHERE outbox_id = {id} RETURNING 1::bigint"
    );
    number(pool, mark).await;

    // Publishers go on in the new database.
    let mut fresh = Vec::new();
    for _ in 0..random.usize(0..6) {
        fresh.push(publish(pool, &outbox, &mut random).await);
    }
    let mut open = pool.begin().await.expect("begun");
    let late: RowId = sqlx::query_scalar("SELECT tide.outbox_publish($1, '1')")
        .bind(&outbox)
        .fetch_one(&mut *open)
        .await
        .expect("published");
    if random.u8(0..4) > 0 {
        // A later transaction ends first: the open one is among those in progress.
        fresh.push(publish(pool, &outbox, &mut random).await);
    }

    let done = rebase(pool, &outbox, false).await.expect("rebased");
    assert!(done.needed, "seed {seed}");
    // It commits before the first window after the rebase is opened, or after it.
    let mut open = Some(open);
    if random.bool() {
        let open = open.take().expect("open");
        open.commit().await.expect("committed");
        fresh.push(late);
    }
    for _ in 0..random.usize(0..3) {
        fresh.push(publish(pool, &outbox, &mut random).await);
    }
    let fixture = Fixture {
        pool: pool.clone(),
        store: PgOutboxStore::new(pool.clone()),
        outbox: OutboxId(id),
    };
    settled.push((format!("{outbox}_new"), BTreeSet::new()));
    let mut heads = Vec::new();
    for (pipeline, settled) in &settled {
        let request = ClaimRequest {
            pipeline,
            version: None,
            outbox: &outbox,
            node: "node",
            lease: LEASE,
        };
        let (_, position) = granted(fixture.store.claim(request).await.expect("an answer"));
        let (seen, windows) = read_on(&fixture, position.head(), random.u32(1..9)).await;
        let all = dumped
            .iter()
            .map(|(id, _)| *id)
            .chain(fresh.iter().copied());
        let expected: Vec<RowId> = all
            .clone()
            .collect::<BTreeSet<RowId>>()
            .into_iter()
            .filter(|id| !settled.contains(id))
            .collect();
        let read: Vec<RowId> = windows.concat();
        let told = distinct.len() != 1;
        if told {
            assert_eq!(read, expected, "seed {seed}, pipeline {pipeline}");
        } else {
            // One transaction alone may look like one of this database.
            assert!(
                read.is_sorted(),
                "seed {seed}, pipeline {pipeline}: {read:?}"
            );
            assert!(
                expected.iter().all(|id| read.contains(id)),
                "seed {seed}, pipeline {pipeline}: {read:?} lacks some of {expected:?}"
            );
        }
        heads.push(seen);
    }
    let Some(open) = open else {
        return;
    };
    open.commit().await.expect("committed");
    for seen in heads {
        let (_, windows) = read_on(&fixture, &seen, 3).await;
        assert_eq!(windows, [[late]], "seed {seed}: what committed meanwhile");
    }
}

#[tokio::test]
async fn a_rebase_delivers_exactly_what_was_not_settled() {
    let pool = database::migrated().await;
    for seed in 0..CASES {
        one_case(&pool, seed).await;
    }
}
