//! The store on a real server: which rows a window has, and what a probe tells.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test says what it expects"
)]
#![cfg(feature = "demo")]

#[path = "common/database.rs"]
mod database;
#[path = "common/outbox.rs"]
mod outbox;
#[path = "store/quiet.rs"]
mod quiet;

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::{Postgres, Transaction};
use tidegate::core::page::RowPage;
use tidegate::core::ports::{OutboxId, OutboxStore, ProbeTarget, WindowRows};
use tidegate::core::position::RowId;
use tidegate::core::snapshot::Snapshot;

use crate::outbox::{Fixture, PAGE, ids, publish, whole};

// === Windows ===

#[tokio::test]
async fn a_late_committer_comes_in_the_window_it_commits_in() {
    let fixture = Fixture::new().await;
    let mut late = fixture.begin().await;
    let low = publish(&mut late).await;
    let high = fixture.publish().await;
    assert!(low < high);
    let (first, rows) = fixture.open(&Snapshot::nothing()).await;
    assert_eq!(rows, [high]);
    let (second, rows) = fixture.open(&first).await;
    assert_eq!(rows, [0; 0], "it still runs");
    late.commit().await.expect("committed");
    let highest = fixture.publish().await;
    let (third, rows) = fixture.open(&second).await;
    assert_eq!(rows, [low, highest]);
    assert!(third.covers(&second) && second.covers(&first));
    let (_, rows) = fixture.open(&third).await;
    assert_eq!(rows, [0; 0]);
    let again = fixture
        .store
        .reopen_window(fixture.outbox, &second, &third, PAGE.into())
        .await;
    assert_eq!(ids(&whole(again.expect("a window"))), [low, highest]);
}

#[tokio::test]
async fn what_is_rolled_back_never_comes() {
    let fixture = Fixture::new().await;
    let mut failed = fixture.begin().await;
    publish(&mut failed).await;
    let mut partly = fixture.begin().await;
    let kept = publish(&mut partly).await;
    sqlx::raw_sql(
        "SAVEPOINT s; SELECT tide.outbox_publish('events', '1'); ROLLBACK TO s; SAVEPOINT t",
    )
    .execute(&mut *partly)
    .await
    .expect("savepoints");
    let kept_inside = publish(&mut partly).await;
    let (seen, rows) = fixture.open(&Snapshot::nothing()).await;
    assert_eq!(rows, [0; 0]);
    failed.rollback().await.expect("rolled back");
    partly.commit().await.expect("committed");
    let (seen, rows) = fixture.open(&seen).await;
    assert_eq!(rows, [kept, kept_inside]);
    let (_, rows) = fixture.open(&seen).await;
    assert_eq!(rows, [0; 0]);
}

#[tokio::test]
async fn other_outboxes_do_not_matter() {
    let fixture = Fixture::new().await;
    fixture
        .run("SELECT tide.outbox_create('other'); SELECT tide.outbox_publish('other', '1')")
        .await;
    let id = fixture.publish().await;
    let (_, rows) = fixture.open(&Snapshot::nothing()).await;
    assert_eq!(rows, [id]);
}

#[tokio::test]
async fn a_row_comes_as_it_was_published() {
    let fixture = Fixture::new().await;
    fixture
        .run(r#"SELECT tide.outbox_publish('events', '{"b":1,"a":"ü"}', '{"h":"x"}', 'key'); SELECT tide.outbox_publish('events', '2')"#)
        .await;
    let opened = fixture
        .store
        .open_window(fixture.outbox, &Snapshot::nothing(), PAGE.into())
        .await
        .expect("a window");
    let rows = whole(opened.rows);
    assert_eq!(rows[0].payload, r#"{"a": "ü", "b": 1}"#);
    assert_eq!(rows[0].headers, r#"{"h": "x"}"#);
    assert_eq!(rows[0].dedup_key.as_deref(), Some("key"));
    assert!(rows[0].age < Duration::from_secs(30), "{:?}", rows[0].age);
    assert_eq!(
        (rows[1].payload.as_str(), rows[1].headers.as_str()),
        ("2", "{}")
    );
    assert_eq!(rows[1].dedup_key, None);
    let time = rows[0].created_at.to_string();
    let time = time.as_bytes();
    assert_eq!(
        time.len(),
        "2026-01-02T03:04:05.000006Z".len(),
        "{}",
        rows[0].created_at
    );
    assert_eq!(
        (time[10], time[19], time[26]),
        (b'T', b'.', b'Z'),
        "{}",
        rows[0].created_at
    );

    let wanted = [rows[1].id, 999_999, rows[0].id];
    let read = fixture
        .store
        .read_rows(fixture.outbox, &wanted, usize::MAX)
        .await
        .expect("rows")
        .rows;
    assert_eq!(ids(&read), [rows[1].id, rows[0].id]);
    assert_eq!(read[1].payload, rows[0].payload);
}

/// Transactions that open, publish, nest, commit and roll back at random, while
/// windows are opened between any two steps: every committed row comes in exactly
/// one window, in id order, and a window read again, whole or in pages, is the
/// same.
#[tokio::test]
async fn windows_partition_what_is_committed_whatever_the_interleaving() {
    for seed in [1, 2, 3] {
        let fixture = Fixture::new().await;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut running: Vec<(Transaction<'static, Postgres>, Vec<RowId>)> = Vec::new();
        let mut committed: BTreeSet<RowId> = BTreeSet::new();
        let mut delivered: BTreeSet<RowId> = BTreeSet::new();
        let mut seen = Snapshot::nothing();
        for step in 0..300 {
            match random.u32(0..10) {
                0 | 1 if running.len() < 8 => running.push((fixture.begin().await, Vec::new())),
                2..=5 if !running.is_empty() => {
                    let index = random.usize(0..running.len());
                    let (transaction, published) = &mut running[index];
                    if random.bool() {
                        published.push(publish(transaction).await);
                    } else {
                        let keep = random.bool();
                        sqlx::raw_sql("SAVEPOINT s")
                            .execute(&mut **transaction)
                            .await
                            .expect("saved");
                        let id = publish(transaction).await;
                        let end = if keep { "RELEASE s" } else { "ROLLBACK TO s" };
                        sqlx::raw_sql(end)
                            .execute(&mut **transaction)
                            .await
                            .expect("ended");
                        if keep {
                            published.push(id);
                        }
                    }
                }
                6 | 7 if !running.is_empty() => {
                    let (transaction, published) =
                        running.swap_remove(random.usize(0..running.len()));
                    if random.u32(0..5) == 0 {
                        transaction.rollback().await.expect("rolled back");
                    } else {
                        transaction.commit().await.expect("committed");
                        committed.extend(published);
                    }
                }
                _ => {
                    let page = random.u32(1..6);
                    let opened = fixture
                        .store
                        .open_window(fixture.outbox, &seen, page.into())
                        .await
                        .expect("a window");
                    let to = opened.snapshot;
                    let rows = fixture.read_all(&seen, &to, opened.rows, page).await;
                    assert!(rows.is_sorted(), "seed {seed} step {step}: {rows:?}");
                    let expected: Vec<RowId> = committed.difference(&delivered).copied().collect();
                    assert_eq!(rows, expected, "seed {seed} step {step}");
                    for page in [1, 3, PAGE] {
                        let again = fixture
                            .store
                            .reopen_window(fixture.outbox, &seen, &to, page.into())
                            .await;
                        let again = fixture
                            .read_all(&seen, &to, again.expect("a window"), page)
                            .await;
                        assert_eq!(again, rows, "seed {seed} step {step} page {page}");
                    }
                    delivered.extend(rows);
                    assert!(to.covers(&seen));
                    seen = to;
                }
            }
        }
        assert!(
            delivered.len() > 40,
            "seed {seed}: only {} rows",
            delivered.len()
        );
    }
}

#[tokio::test]
async fn a_window_read_again_later_has_the_same_rows() {
    let fixture = Fixture::new().await;
    let mut late = fixture.begin().await;
    let mut later = fixture.begin().await;
    let (late_id, later_id) = (publish(&mut late).await, publish(&mut later).await);
    let id = fixture.publish().await;
    let (first, _) = fixture.open(&Snapshot::nothing()).await;
    late.commit().await.expect("committed");
    let newer = fixture.publish().await;
    let (second, rows) = fixture.open(&first).await;
    assert_eq!(rows, [late_id, newer]);
    later.commit().await.expect("committed");
    let newest = fixture.publish().await;
    let (third, rows) = fixture.open(&second).await;
    assert_eq!(rows, [later_id, newest]);
    for (from, to, expected) in [
        (&Snapshot::nothing(), &first, vec![id]),
        (&first, &second, vec![late_id, newer]),
        (&second, &third, vec![later_id, newest]),
        // Two windows merged into one.
        (&first, &third, vec![late_id, later_id, newer, newest]),
    ] {
        for page in [1, PAGE] {
            let again = fixture
                .store
                .reopen_window(fixture.outbox, from, to, page.into())
                .await;
            let again = fixture
                .read_all(from, to, again.expect("a window"), page)
                .await;
            assert_eq!(again, expected, "from {from} to {to}, pages of {page}");
        }
    }
}

#[tokio::test]
async fn a_large_window_gives_its_bounds_and_is_paged() {
    let fixture = Fixture::new().await;
    let mut late = fixture.begin().await;
    let low = publish(&mut late).await;
    fixture.run("SELECT tide.outbox_publish_many('events', array_agg(to_jsonb(n))) FROM generate_series(1, 500) n").await;
    let (settled, rows) = fixture.open(&Snapshot::nothing()).await;
    assert_eq!(rows.len(), 500);
    let fresh_low = fixture.publish().await;
    fixture.run("SELECT tide.outbox_publish_many('events', array_agg(to_jsonb(n))) FROM generate_series(1, 99) n").await;
    late.commit().await.expect("committed");

    let opened = fixture
        .store
        .open_window(fixture.outbox, &settled, 50.into())
        .await
        .expect("a window");
    let WindowRows::Bounds {
        first,
        first_fresh,
        last,
        ..
    } = opened.rows
    else {
        panic!("not large: {:?}", opened.rows);
    };
    assert_eq!((first, first_fresh, last), (low, fresh_low, fresh_low + 99));
    let again = fixture
        .store
        .reopen_window(fixture.outbox, &settled, &opened.snapshot, 50.into())
        .await;
    assert_eq!(
        again,
        Ok(WindowRows::Bounds {
            read: RowPage::default(),
            first,
            first_fresh,
            last
        })
    );
    let rows = WindowRows::Bounds {
        read: RowPage::default(),
        first,
        first_fresh,
        last,
    };
    let read = fixture.read_all(&settled, &opened.snapshot, rows, 50).await;
    let expected: Vec<RowId> = std::iter::once(low)
        .chain(fresh_low..=fresh_low + 99)
        .collect();
    assert_eq!(read, expected);

    // Exactly a page is not large.
    let opened = fixture
        .store
        .open_window(fixture.outbox, &settled, 101.into())
        .await
        .expect("a window");
    assert_eq!(ids(&whole(opened.rows)), expected);
}

#[tokio::test]
async fn a_window_of_late_rows_only_may_be_large() {
    let fixture = Fixture::new().await;
    let mut late = fixture.begin().await;
    sqlx::raw_sql("SELECT tide.outbox_publish_many('events', array_agg(to_jsonb(n))) FROM generate_series(1, 100) n")
        .execute(&mut *late)
        .await
        .expect("published");
    fixture.publish().await;
    let (seen, _) = fixture.open(&Snapshot::nothing()).await;
    late.commit().await.expect("committed");
    let opened = fixture
        .store
        .open_window(fixture.outbox, &seen, 10.into())
        .await
        .expect("a window");
    assert!(
        matches!(opened.rows, WindowRows::Bounds { .. }),
        "{:?}",
        opened.rows
    );
    let read = fixture
        .read_all(&seen, &opened.snapshot, opened.rows, 10)
        .await;
    assert_eq!(read.len(), 100);
    let again = fixture
        .store
        .reopen_window(fixture.outbox, &seen, &opened.snapshot, 10.into())
        .await
        .expect("a window");
    assert_eq!(
        fixture.read_all(&seen, &opened.snapshot, again, 10).await,
        read
    );
}

// === Probe and backlog ===

#[tokio::test]
async fn a_probe_tells_which_outboxes_have_news() {
    let fixture = Fixture::new().await;
    fixture.run("SELECT tide.outbox_create('quiet')").await;
    let quiet: i32 = sqlx::query_scalar("SELECT outbox_id FROM tide.outbox WHERE name = 'quiet'")
        .fetch_one(&fixture.pool)
        .await
        .expect("an id");
    let probe = |seen: Snapshot| {
        let store = &fixture.store;
        let targets: Vec<ProbeTarget> = [
            fixture.outbox,
            OutboxId(quiet),
            OutboxId(9_999),
            fixture.outbox,
        ]
        .into_iter()
        .map(|outbox| ProbeTarget {
            outbox,
            seen: seen.clone(),
        })
        .collect();
        async move { store.probe(&targets).await.expect("a report") }
    };
    assert_eq!(probe(Snapshot::nothing()).await.news, [false; 4]);
    let mut late = fixture.begin().await;
    publish(&mut late).await;
    let before = probe(Snapshot::nothing()).await;
    assert_eq!(before.news, [false; 4], "it has not committed");
    fixture.publish().await;
    let report = probe(before.snapshot).await;
    assert_eq!(report.news, [true, false, false, true]);
    let (seen, _) = fixture.open(&report.snapshot).await;
    let report = probe(seen.clone()).await;
    assert_eq!(report.news, [false; 4]);
    assert!(report.snapshot.covers(&seen));
    late.commit().await.expect("committed");
    assert_eq!(
        probe(report.snapshot).await.news,
        [true, false, false, true],
        "the late one"
    );
    let none = fixture.store.probe(&[]).await.expect("a report");
    assert!(none.news.is_empty());
}

#[tokio::test]
async fn a_backlog_is_counted_up_to_its_bound() {
    let fixture = Fixture::new().await;
    let backlog = |seen: Snapshot, bound: u32| {
        let (store, outbox) = (&fixture.store, fixture.outbox);
        async move {
            store
                .backlog(outbox, &seen, bound)
                .await
                .expect("a backlog")
        }
    };
    let empty = backlog(Snapshot::nothing(), 10).await;
    assert_eq!(
        (empty.rows, empty.at_least, empty.oldest),
        (0, false, Duration::ZERO)
    );
    let mut late = fixture.begin().await;
    publish(&mut late).await;
    let (seen, _) = fixture.open(&Snapshot::nothing()).await;
    for _ in 0..5 {
        fixture.publish().await;
    }
    let backlogged = backlog(seen.clone(), 10).await;
    assert_eq!((backlogged.rows, backlogged.at_least), (5, false));
    late.commit().await.expect("committed");
    let backlogged = backlog(seen.clone(), 10).await;
    assert_eq!((backlogged.rows, backlogged.at_least), (6, false));
    assert!(backlogged.oldest > Duration::ZERO && backlogged.oldest < Duration::from_secs(60));
    let bounded = backlog(seen, 6).await;
    assert_eq!((bounded.rows, bounded.at_least), (6, true));
}
