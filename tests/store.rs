//! The store on a real server: which rows a window has, what a read costs, and
//! who may write a position.
#![cfg(feature = "demo")]

#[path = "common/database.rs"]
mod database;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, Transaction};
use tidegate::core::ports::{
    Claim, Epoch, Fenced, Opened, OutboxId, OutboxStore, PageRequest, PipelineName, ProbeTarget,
    StoreError, WindowRows,
};
use tidegate::core::position::{OpenWindow, Position, RowId, WindowNumber};
use tidegate::core::row::OutboxRow;
use tidegate::core::snapshot::Snapshot;
use tidegate::postgres::PgOutboxStore;
use tidegate::postgres::pool::{PoolSettings, connect_lazily};

const LEASE: Duration = Duration::from_secs(60);
const PAGE: u32 = 2_000;

/// A store, its connections, and its outbox `events`.
struct Fixture {
    pool: PgPool,
    store: PgOutboxStore,
    outbox: OutboxId,
}

impl Fixture {
    async fn new() -> Self {
        let pool = database::migrated().await;
        Self::on(pool.clone(), PgOutboxStore::new(pool)).await
    }

    async fn on(pool: PgPool, store: PgOutboxStore) -> Self {
        let id: i32 = sqlx::query_scalar("SELECT tide.outbox_create('events')")
            .fetch_one(&pool)
            .await
            .expect("an outbox");
        Self { pool, store, outbox: OutboxId(id) }
    }

    async fn run(&self, sql: &str) {
        if let Err(error) = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await {
            panic!("{sql}\n{error}");
        }
    }

    async fn begin(&self) -> Transaction<'static, Postgres> {
        self.pool.begin().await.expect("begun")
    }

    async fn publish(&self) -> RowId {
        let mut connection = self.pool.acquire().await.expect("connected");
        publish(&mut connection).await
    }

    async fn open(&self, seen: &Snapshot) -> (Snapshot, Vec<RowId>) {
        let Opened { snapshot, rows } =
            self.store.open_window(self.outbox, seen, PAGE).await.expect("a window");
        (snapshot, ids(&whole(rows)))
    }

    async fn claim(&self, node: &str) -> Claim {
        self.store.claim("p", "events", node, LEASE).await.expect("an answer")
    }

    /// All rows of a window, page by page if need be.
    async fn read_all(&self, from: &Snapshot, to: &Snapshot, rows: WindowRows, page: u32) -> Vec<RowId> {
        let (first, first_fresh, last) = match rows {
            WindowRows::Whole(rows) => return ids(&rows),
            WindowRows::Bounds { first, first_fresh, last } => (first, first_fresh, last),
        };
        let mut all = Vec::new();
        let mut after = first - 1;
        loop {
            let request = PageRequest {
                outbox: self.outbox,
                from: from.clone(),
                to: to.clone(),
                after,
                first_fresh,
                last,
                limit: page,
            };
            let rows = self.store.read_page(&request).await.expect("a page");
            all.extend(ids(&rows));
            if rows.len() < page as usize {
                return all;
            }
            after = rows.last().expect("a full page").id;
        }
    }
}

async fn publish(connection: &mut PgConnection) -> RowId {
    sqlx::query_scalar("SELECT tide.outbox_publish('events', '{\"a\": 1}')")
        .fetch_one(connection)
        .await
        .expect("published")
}

fn ids(rows: &[OutboxRow]) -> Vec<RowId> {
    rows.iter().map(|row| row.id).collect()
}

fn whole(rows: WindowRows) -> Vec<OutboxRow> {
    match rows {
        WindowRows::Whole(rows) => rows,
        WindowRows::Bounds { first, last, .. } => panic!("a large window: {first} to {last}"),
    }
}

fn snapshot(text: &str) -> Snapshot {
    text.parse().expect("a snapshot")
}

fn granted(claim: Claim) -> (Epoch, Position) {
    match claim {
        Claim::Granted { epoch, position, .. } => (epoch, position),
        Claim::Held { owner, .. } => panic!("held by {owner}"),
    }
}

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
    let again = fixture.store.reopen_window(fixture.outbox, &second, &third, PAGE).await;
    assert_eq!(ids(&whole(again.expect("a window"))), [low, highest]);
}

#[tokio::test]
async fn what_is_rolled_back_never_comes() {
    let fixture = Fixture::new().await;
    let mut failed = fixture.begin().await;
    publish(&mut failed).await;
    let mut partly = fixture.begin().await;
    let kept = publish(&mut partly).await;
    sqlx::raw_sql("SAVEPOINT s; SELECT tide.outbox_publish('events', '1'); ROLLBACK TO s; SAVEPOINT t")
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
    fixture.run("SELECT tide.outbox_create('other'); SELECT tide.outbox_publish('other', '1')").await;
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
    let opened =
        fixture.store.open_window(fixture.outbox, &Snapshot::nothing(), PAGE).await.expect("a window");
    let rows = whole(opened.rows);
    assert_eq!(rows[0].payload, r#"{"a": "ü", "b": 1}"#);
    assert_eq!(rows[0].headers, r#"{"h": "x"}"#);
    assert_eq!(rows[0].dedup_key.as_deref(), Some("key"));
    assert!(rows[0].age < Duration::from_secs(30), "{:?}", rows[0].age);
    assert_eq!((rows[1].payload.as_str(), rows[1].headers.as_str()), ("2", "{}"));
    assert_eq!(rows[1].dedup_key, None);
    let time = rows[0].created_at.as_bytes();
    assert_eq!(time.len(), "2026-01-02T03:04:05.000006Z".len(), "{}", rows[0].created_at);
    assert_eq!((time[10], time[19], time[26]), (b'T', b'.', b'Z'), "{}", rows[0].created_at);

    let wanted = [rows[1].id, 999_999, rows[0].id];
    let read = fixture.store.read_rows(fixture.outbox, &wanted).await.expect("rows");
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
                        sqlx::raw_sql("SAVEPOINT s").execute(&mut **transaction).await.expect("saved");
                        let id = publish(transaction).await;
                        let end = if keep { "RELEASE s" } else { "ROLLBACK TO s" };
                        sqlx::raw_sql(end).execute(&mut **transaction).await.expect("ended");
                        if keep {
                            published.push(id);
                        }
                    }
                }
                6 | 7 if !running.is_empty() => {
                    let (transaction, published) = running.swap_remove(random.usize(0..running.len()));
                    if random.u32(0..5) == 0 {
                        transaction.rollback().await.expect("rolled back");
                    } else {
                        transaction.commit().await.expect("committed");
                        committed.extend(published);
                    }
                }
                _ => {
                    let page = random.u32(1..6);
                    let opened =
                        fixture.store.open_window(fixture.outbox, &seen, page).await.expect("a window");
                    let to = opened.snapshot;
                    let rows = fixture.read_all(&seen, &to, opened.rows, page).await;
                    assert!(rows.is_sorted(), "seed {seed} step {step}: {rows:?}");
                    let expected: Vec<RowId> = committed.difference(&delivered).copied().collect();
                    assert_eq!(rows, expected, "seed {seed} step {step}");
                    for page in [1, 3, PAGE] {
                        let again = fixture.store.reopen_window(fixture.outbox, &seen, &to, page).await;
                        let again = fixture.read_all(&seen, &to, again.expect("a window"), page).await;
                        assert_eq!(again, rows, "seed {seed} step {step} page {page}");
                    }
                    delivered.extend(rows);
                    assert!(to.covers(&seen));
                    seen = to;
                }
            }
        }
        assert!(delivered.len() > 40, "seed {seed}: only {} rows", delivered.len());
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
            let again = fixture.store.reopen_window(fixture.outbox, from, to, page).await;
            let again = fixture.read_all(from, to, again.expect("a window"), page).await;
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

    let opened = fixture.store.open_window(fixture.outbox, &settled, 50).await.expect("a window");
    let WindowRows::Bounds { first, first_fresh, last } = opened.rows else {
        panic!("not large: {:?}", opened.rows);
    };
    assert_eq!((first, first_fresh, last), (low, fresh_low, fresh_low + 99));
    let again = fixture.store.reopen_window(fixture.outbox, &settled, &opened.snapshot, 50).await;
    assert_eq!(again, Ok(WindowRows::Bounds { first, first_fresh, last }));
    let rows = WindowRows::Bounds { first, first_fresh, last };
    let read = fixture.read_all(&settled, &opened.snapshot, rows, 50).await;
    let expected: Vec<RowId> = std::iter::once(low).chain(fresh_low..=fresh_low + 99).collect();
    assert_eq!(read, expected);

    // Exactly a page is not large.
    let opened = fixture.store.open_window(fixture.outbox, &settled, 101).await.expect("a window");
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
    let opened = fixture.store.open_window(fixture.outbox, &seen, 10).await.expect("a window");
    assert!(matches!(opened.rows, WindowRows::Bounds { .. }), "{:?}", opened.rows);
    let read = fixture.read_all(&seen, &opened.snapshot, opened.rows, 10).await;
    assert_eq!(read.len(), 100);
    let again = fixture.store.reopen_window(fixture.outbox, &seen, &opened.snapshot, 10).await.expect("a window");
    assert_eq!(fixture.read_all(&seen, &opened.snapshot, again, 10).await, read);
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
        let targets: Vec<ProbeTarget> = [fixture.outbox, OutboxId(quiet), OutboxId(9_999), fixture.outbox]
            .into_iter()
            .map(|outbox| ProbeTarget { outbox, seen: seen.clone() })
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
    assert_eq!(probe(report.snapshot).await.news, [true, false, false, true], "the late one");
    let none = fixture.store.probe(&[]).await.expect("a report");
    assert!(none.news.is_empty());
}

#[tokio::test]
async fn a_backlog_is_counted_up_to_its_bound() {
    let fixture = Fixture::new().await;
    let backlog = |seen: Snapshot, bound: u32| {
        let (store, outbox) = (&fixture.store, fixture.outbox);
        async move { store.backlog(outbox, &seen, bound).await.expect("a backlog") }
    };
    let empty = backlog(Snapshot::nothing(), 10).await;
    assert_eq!((empty.rows, empty.at_least, empty.oldest), (0, false, Duration::ZERO));
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

// === Leases and positions ===

#[tokio::test]
async fn a_pipeline_has_one_owner_at_a_time() {
    let fixture = Fixture::new().await;
    let (first, position) = granted(fixture.claim("node-1").await);
    assert_eq!((first, position), (Epoch(1), Position::start()));
    let Claim::Held { owner, expires_in } = fixture.claim("node-2").await else {
        panic!("granted twice");
    };
    assert_eq!(owner, "node-1");
    assert!(expires_in <= LEASE && expires_in > LEASE / 2, "{expires_in:?}");

    let (second, _) = granted(fixture.claim("node-1").await);
    assert_eq!(second, Epoch(2), "its owner may begin anew");
    let held: Vec<(PipelineName, Epoch)> =
        vec![("p".into(), first), ("p".into(), second), ("other".into(), second)];
    let renewed = fixture.store.renew("node-1", &held, LEASE).await.expect("an answer");
    assert_eq!(renewed, [false, true, false]);
    let renewed = fixture.store.renew("node-2", &held, LEASE).await.expect("an answer");
    assert_eq!(renewed, [false; 3]);

    fixture.store.release("p", "node-1", first).await.expect("an old epoch releases nothing");
    assert!(matches!(fixture.claim("node-2").await, Claim::Held { .. }));
    fixture.store.release("p", "node-1", second).await.expect("released");
    let (third, _) = granted(fixture.claim("node-2").await);
    assert_eq!(third, Epoch(3));
}

#[tokio::test]
async fn an_expired_lease_is_taken_over_and_its_owner_fenced_off() {
    let fixture = Fixture::new().await;
    let claim = fixture.store.claim("p", "events", "node-1", Duration::from_millis(50)).await;
    let (old, mut position) = granted(claim.expect("an answer"));
    let deadline = Instant::now() + Duration::from_secs(20);
    let new = loop {
        if let Claim::Granted { epoch, .. } = fixture.claim("node-2").await {
            break epoch;
        }
        assert!(Instant::now() < deadline, "never expired");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(new > old);
    position.settled_id = 7;
    let fenced = fixture.store.save_position("p", old, &position).await;
    assert_eq!(fenced, Ok(Fenced::Stale));
    let renewed = fixture.store.renew("node-1", &[("p".into(), old)], LEASE).await;
    assert_eq!(renewed, Ok(vec![false]));
    let (_, position) = granted(fixture.claim("node-2").await);
    assert_eq!(position, Position::start(), "nothing was written");
}

#[tokio::test]
async fn of_many_claims_at_once_one_is_granted() {
    let fixture = Fixture::new().await;
    for round in 0..5 {
        fixture.run("UPDATE tide.relay_lease SET expires_at = '-infinity'").await;
        let nodes: Vec<String> = (0..8).map(|node| format!("{round}-{node}")).collect();
        let claims = futures::future::join_all(nodes.iter().map(|node| fixture.claim(node))).await;
        let granted = claims.iter().filter(|claim| matches!(claim, Claim::Granted { .. })).count();
        assert_eq!(granted, 1, "{claims:?}");
    }
}

#[tokio::test]
async fn a_position_is_kept_as_written() {
    let fixture = Fixture::new().await;
    let (epoch, _) = granted(fixture.claim("node").await);
    fixture.run("SELECT pg_current_xact_id(); SELECT pg_current_xact_id(); SELECT pg_current_xact_id()").await;
    let position = Position {
        base: snapshot("5:9:5,7"),
        base_number: WindowNumber(41),
        open: vec![
            OpenWindow { number: WindowNumber(42), snapshot: snapshot("7:12:7,10") },
            OpenWindow { number: WindowNumber(45), snapshot: snapshot("12:13:") },
        ],
        settled_id: i64::MAX,
    };
    for _ in 0..2 {
        let written = fixture.store.save_position("p", epoch, &position).await;
        assert_eq!(written, Ok(Fenced::Written));
    }
    let (next, kept) = granted(fixture.claim("node").await);
    assert_eq!(kept, position);
    assert_eq!(fixture.store.save_position("p", epoch, &Position::start()).await, Ok(Fenced::Stale));
    assert_eq!(fixture.store.save_position("q", next, &position).await, Ok(Fenced::Stale));
    assert_eq!(fixture.store.save_position("p", next, &Position::start()).await, Ok(Fenced::Written));
    let (_, kept) = granted(fixture.claim("node").await);
    assert_eq!(kept, Position::start());
}

/// A commit that waits for the disk leaves nothing unflushed behind it; one that
/// does not wait mostly does.
#[tokio::test]
async fn saving_a_position_does_not_wait_for_the_disk_but_a_claim_does() {
    let fixture = Fixture::new().await;
    let unflushed = "SELECT pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()";
    let (mut epoch, position) = granted(fixture.claim("node").await);
    let mut unflushed_saves = 0;
    for _ in 0..40 {
        let written = fixture.store.save_position("p", epoch, &position).await;
        assert_eq!(written, Ok(Fenced::Written));
        let behind: bool = sqlx::query_scalar(unflushed).fetch_one(&fixture.pool).await.expect("known");
        unflushed_saves += usize::from(behind);
    }
    assert!(unflushed_saves > 0, "every save waited");
    // Even where the database does not wait by default. (What other tests of this
    // server write meanwhile may be unflushed, hence the repetition.)
    let name: String =
        sqlx::query_scalar("SELECT current_database()::text").fetch_one(&fixture.pool).await.expect("a name");
    fixture.run(&format!("ALTER DATABASE {name} SET synchronous_commit = off")).await;
    let pool = database::pool(&name);
    let store = PgOutboxStore::new(pool.clone());
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let claimed: String =
            sqlx::query_scalar("SELECT pg_current_wal_insert_lsn()::text").fetch_one(&pool).await.expect("known");
        (epoch, _) = granted(store.claim("p", "events", "node", LEASE).await.expect("an answer"));
        let flushed: bool = sqlx::query_scalar("SELECT pg_current_wal_flush_lsn() > $1::text::pg_lsn")
            .bind(claimed)
            .fetch_one(&pool)
            .await
            .expect("known");
        assert!(flushed, "epoch {epoch} was granted before it was flushed");
        if epoch > Epoch(20) {
            break;
        }
        assert!(Instant::now() < deadline);
    }
}

#[tokio::test]
async fn a_pipeline_without_a_sound_position_is_refused() {
    let fixture = Fixture::new().await;
    let refused = |outbox: &'static str| {
        let store = &fixture.store;
        async move {
            match store.claim("p", outbox, "node", LEASE).await {
                Err(StoreError::Refused(text)) => text,
                other => panic!("{other:?}"),
            }
        }
    };
    let text = refused("nosuch").await;
    assert!(text.contains("\"nosuch\" does not exist") && text.contains("outbox_create"), "{text}");
    granted(fixture.claim("node").await);
    fixture.run("SELECT tide.outbox_create('other')").await;
    let text = refused("other").await;
    assert!(text.contains("\"p\" has a position in the outbox with id"), "{text}");
    fixture.run("UPDATE tide.relay_position SET base = '900000000:900000000:'").await;
    let text = refused("events").await;
    assert!(text.contains("lies in the database's future"), "{text}");
    // A refused claim leaves nothing behind.
    let epoch: i64 = sqlx::query_scalar("SELECT epoch FROM tide.relay_lease")
        .fetch_one(&fixture.pool)
        .await
        .expect("a lease");
    assert_eq!(epoch, 1);
}

#[tokio::test]
async fn a_deleted_pipeline_begins_anew_above_its_old_numbers() {
    let fixture = Fixture::new().await;
    fixture
        .run(r#"SELECT tide.relay_set_outbox('p', 'events', '{"sink_type": "kinesis", "stream_name": "s"}')"#)
        .await;
    let (old, mut position) = granted(fixture.claim("node").await);
    position.base_number = WindowNumber(6);
    position.open = vec![OpenWindow { number: WindowNumber(9), snapshot: snapshot("3:3:") }];
    assert_eq!(fixture.store.save_position("p", old, &position).await, Ok(Fenced::Written));
    fixture.run("SELECT tide.relay_delete('p')").await;
    assert_eq!(fixture.store.save_position("p", old, &position).await, Ok(Fenced::Stale));
    assert_eq!(fixture.store.renew("node", &[("p".into(), old)], LEASE).await, Ok(vec![false]));
    let (new, position) = granted(fixture.claim("other node").await);
    assert!(new > old);
    assert_eq!(position, Position { base_number: WindowNumber(9), ..Position::start() });
    assert_eq!(position.next_number(), WindowNumber(10));
}

// === Errors and manners ===

#[tokio::test]
async fn a_missing_schema_is_refused_with_what_to_do() {
    let pool = database::pool(&database::empty_database().await);
    let store = PgOutboxStore::new(pool);
    match store.claim("p", "events", "node", LEASE).await {
        Err(StoreError::Refused(text)) => assert!(text.contains("run `tidegate migrate`"), "{text}"),
        other => panic!("{other:?}"),
    }
    let error = store.open_window(OutboxId(1), &Snapshot::nothing(), 1).await.expect_err("refused");
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_condition() {
    // Nobody listens on port 1.
    let mut settings = PoolSettings::new("postgres://nobody@127.0.0.1:1/none");
    settings.acquire_timeout = Duration::from_millis(300);
    let store = PgOutboxStore::new(connect_lazily(&settings).expect("a pool"));
    let error = store.probe(&[]).await.expect_err("unavailable");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    // Nor does the server have this database: somebody must act.
    let missing = PoolSettings::new(&database::server().url("nosuch"));
    let store = PgOutboxStore::new(connect_lazily(&missing).expect("a pool"));
    let error = store.probe(&[]).await.expect_err("refused");
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
}

#[tokio::test]
async fn a_call_is_given_up_in_time_and_leaves_no_transaction() {
    let fixture = Fixture::new().await;
    let name: String =
        sqlx::query_scalar("SELECT current_database()::text").fetch_one(&fixture.pool).await.expect("a name");
    let mut settings = PoolSettings::new(&database::server().url_as(database::OWNER, &name));
    settings.statement_timeout = Duration::from_secs(2);
    let pool = connect_lazily(&settings).expect("a pool");
    let store = PgOutboxStore::new(pool).with_timeout(Duration::from_millis(300));
    let mut blocker = fixture.begin().await;
    sqlx::raw_sql("LOCK TABLE tide.relay_lease").execute(&mut *blocker).await.expect("locked");
    let begun = Instant::now();
    let error = store.claim("p", "events", "node", LEASE).await.expect_err("given up");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // The server gives up too, though the lock is still there.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let busy: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tidegate'
            AND pid <> pg_backend_pid() AND state <> 'idle' AND pid NOT IN (SELECT pid FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted)",
        )
        .fetch_one(&fixture.pool)
        .await
        .expect("counted");
        if busy == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "a transaction stays open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    blocker.rollback().await.expect("unlocked");
    granted(store.claim("p", "events", "node", LEASE).await.expect("it works again"));
}

#[tokio::test]
async fn everything_works_on_shared_sessions_too() {
    let name = database::migrated_database().await;
    let mut settings = PoolSettings::new(&database::server().url_as(database::OWNER, &name));
    settings.own_sessions = false;
    settings.max_connections = 1;
    let pool = connect_lazily(&settings).expect("a pool");
    let fixture = Fixture::on(pool.clone(), PgOutboxStore::new(pool).with_shared_sessions()).await;
    let (epoch, mut position) = granted(fixture.claim("node").await);
    let id = fixture.publish().await;
    let (seen, rows) = fixture.open(&Snapshot::nothing()).await;
    assert_eq!(rows, [id]);
    let again = fixture.store.reopen_window(fixture.outbox, &Snapshot::nothing(), &seen, 5).await;
    assert_eq!(ids(&whole(again.expect("a window"))), [id]);
    position.settled_id = id;
    assert_eq!(fixture.store.save_position("p", epoch, &position).await, Ok(Fenced::Written));
    let target = ProbeTarget { outbox: fixture.outbox, seen };
    assert_eq!(fixture.store.probe(&[target]).await.expect("a report").news, [false]);
    assert_eq!(fixture.store.renew("node", &[("p".into(), epoch)], LEASE).await, Ok(vec![true]));
    fixture.store.release("p", "node", epoch).await.expect("released");
    // What this test itself runs is prepared; what the store runs is not.
    let prepared: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_prepared_statements
        WHERE statement LIKE '%tide.relay\\_%' OR statement LIKE '%tide.outbox\\_message%'",
    )
    .persistent(false)
    .fetch_one(&fixture.pool)
    .await
    .expect("counted");
    assert_eq!(prepared, 0);
}

// === What a read costs ===

/// What EXPLAIN says of a statement.
#[derive(Debug)]
struct Cost {
    /// Pages touched.
    pages: i64,
    /// Rows given.
    rows: usize,
    plan: String,
}

impl Cost {
    #[track_caller]
    fn assert(&self, rows: usize, pages: i64, what: &str) {
        assert_eq!(self.rows, rows, "{what}: rows\n{}", self.plan);
        assert!(self.pages <= pages, "{what}: {} pages, at most {pages} expected\n{}", self.pages, self.plan);
    }
}

/// Runs a reading statement as the store would, under EXPLAIN, with the plan
/// made for these arguments or for any.
async fn explain(connection: &mut PgConnection, statement: &str, arguments: &str, mode: &str) -> Cost {
    let (_, sql) = PgOutboxStore::READING_STATEMENTS
        .into_iter()
        .find(|(name, _)| *name == statement)
        .expect("a statement");
    let types = match statement {
        "open_window" => "int, text, text[], bigint",
        "reopen_window" => "int, text, text[], bigint, text, text",
        "read_page" => "int, text, text[], text, bigint, bigint, bigint, bigint",
        "read_rows" => "int, bigint[]",
        _ => "int[], text[]",
    };
    let prepare = format!(
        "SET plan_cache_mode = {mode}; DEALLOCATE ALL; PREPARE reading ({types}) AS {sql}"
    );
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut *connection).await.expect("prepared");
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) EXECUTE reading ({arguments})");
    let lines: Vec<sqlx::postgres::PgRow> =
        futures::TryStreamExt::try_collect::<Vec<_>>(futures::TryStreamExt::try_filter_map(
            sqlx::raw_sql(AssertSqlSafe(explain)).fetch_many(&mut *connection),
            |step| async { Ok(step.right()) },
        ))
        .await
        .expect("explained");
    let plan: Vec<String> = lines.iter().map(|row| sqlx::Row::get(row, 0)).collect();
    // The first line with buffers is the whole statement's.
    let buffers = plan.iter().find(|line| line.trim_start().starts_with("Buffers: shared"));
    let pages = buffers.map_or(0, |line| {
        line.split_whitespace()
            .filter_map(|word| word.strip_prefix("hit=").or_else(|| word.strip_prefix("read=")))
            .filter_map(|count| count.parse::<i64>().ok())
            .sum()
    });
    // "(actual rows=61 loops=1)", since PostgreSQL 18 "rows=61.00".
    let rows = plan[0].split_once("actual rows=").and_then(|(_, rest)| {
        rest.split(|end: char| !end.is_ascii_digit()).next()?.parse().ok()
    });
    Cost { pages, rows: rows.expect("a number of rows"), plan: plan.join("\n") }
}

/// How the planner's knowledge of the table came about.
#[derive(Debug, Clone, Copy)]
enum Statistics {
    Never,
    /// Taken when the table was empty.
    OfNothing,
    /// Taken when all rows were of one transaction.
    OfOneTransaction,
    Fresh,
}

/// 240,000 rows, a third of them the outbox's, ten to a transaction, between those
/// of two others; all of transactions long past.
async fn large_table(statistics: Statistics) -> (Fixture, PoolSettings) {
    let name = database::migrated_database().await;
    let settings = PoolSettings::new(&database::server().url_as(database::OWNER, &name));
    let pool = database::pool(&name);
    let fixture = Fixture::on(pool.clone(), PgOutboxStore::new(pool)).await;
    fixture.run("ALTER TABLE tide.outbox_message SET (autovacuum_enabled = off)").await;
    let id = fixture.outbox.0;
    match statistics {
        Statistics::OfNothing => fixture.run("VACUUM ANALYZE tide.outbox_message").await,
        Statistics::OfOneTransaction => {
            let fill = format!(
                "INSERT INTO tide.outbox_message (outbox_id, xact, payload)
                SELECT {id}, '3', to_jsonb(n) FROM generate_series(1, 20000) n; ANALYZE tide.outbox_message"
            );
            fixture.run(&fill).await;
        }
        Statistics::Never | Statistics::Fresh => {}
    }
    fixture
        .run(&format!(
            "INSERT INTO tide.outbox_message (outbox_id, xact, payload)
            SELECT {id} + n % 3, (10 + n / 30)::text::xid8, to_jsonb(n) FROM generate_series(0, 239999) n"
        ))
        .await;
    // Those transactions must be in the past.
    fixture
        .run("DO $$ BEGIN WHILE pg_current_xact_id() < '8100' LOOP COMMIT; END LOOP; END $$")
        .await;
    if matches!(statistics, Statistics::Fresh) {
        fixture.run("ANALYZE tide.outbox_message").await;
    }
    (fixture, settings)
}

/// Transactions 10 to 8,009 hold the rows. The costs are bounds on pages: a read
/// of the whole outbox would touch 3,000 to 80,000.
async fn assert_reads_are_flat(statistics: Statistics) {
    let (fixture, settings) = large_table(statistics).await;
    let id = fixture.outbox.0;
    let pool = connect_lazily(&settings).expect("a pool");
    let mut connection = pool.acquire().await.expect("connected");
    let (first, last): (i64, i64) =
        sqlx::query_as("SELECT min(id), max(id) FROM tide.outbox_message WHERE outbox_id = $1")
            .bind(id)
            .fetch_one(&mut *connection)
            .await
            .expect("ids");
    let middle = (first + last) / 2;
    let hundred: Vec<String> = (0..100).map(|n| (first + 3 * n).to_string()).collect();
    for mode in ["force_generic_plan", "force_custom_plan"] {
        let what = |read: &str| format!("{read}, {statistics:?}, {mode}");
        // The last 5 transactions are new, and one of the middle was late.
        let cost = explain(&mut connection, "open_window", &format!("{id}, '8005', '{{4000}}', 2000"), mode).await;
        cost.assert(61, 300, &what("a small window"));
        let cost = explain(&mut connection, "open_window", &format!("{id}, '30000', '{{}}', 2000"), mode).await;
        cost.assert(1, 60, &what("an empty window"));
        let cost = explain(
            &mut connection,
            "reopen_window",
            &format!("{id}, '4000', '{{3000}}', 2000, '4005', '4005:4005:'"),
            mode,
        )
        .await;
        cost.assert(61, 300, &what("a small window read again"));
        let page = |xmax: u32, late: &str, after: i64, fresh_after: i64| {
            format!("{id}, '{xmax}', '{late}', '8010:8010:', {after}, {fresh_after}, {last}, 1000")
        };
        let cost = explain(&mut connection, "read_page", &page(1, "{}", 0, first - 1), mode).await;
        cost.assert(1_000, 1_500, &what("the first page of everything"));
        let cost = explain(&mut connection, "read_page", &page(1, "{}", middle, middle), mode).await;
        cost.assert(1_000, 1_500, &what("a page deep inside"));
        let cost = explain(&mut connection, "read_page", &page(4_010, "{10}", 0, middle), mode).await;
        cost.assert(1_000, 1_500, &what("a page with a late row of low id"));
        let cost = explain(
            &mut connection,
            "read_rows",
            &format!("{id}, '{{{}}}'", hundred.join(",")),
            mode,
        )
        .await;
        cost.assert(100, 700, &what("a hundred rows by id"));
        let cost = explain(
            &mut connection,
            "probe",
            &format!("'{{{id},{},{},{id}}}', '{{8010:8010:,30000:30000:,8009:8009:,\"5000:30000:5000\"}}'", id + 1, id + 2),
            mode,
        )
        .await;
        cost.assert(1, 60, &what("a probe of four outboxes"));
    }
}

#[tokio::test]
async fn reads_are_flat_without_statistics() {
    assert_reads_are_flat(Statistics::Never).await;
}

#[tokio::test]
async fn reads_are_flat_with_statistics_of_an_empty_table() {
    assert_reads_are_flat(Statistics::OfNothing).await;
}

#[tokio::test]
async fn reads_are_flat_with_statistics_of_one_transaction() {
    assert_reads_are_flat(Statistics::OfOneTransaction).await;
}

#[tokio::test]
async fn reads_are_flat_with_fresh_statistics() {
    assert_reads_are_flat(Statistics::Fresh).await;
}

/// A transaction that has inserted much and still runs costs a poll nothing.
#[tokio::test]
async fn rows_of_a_running_transaction_are_not_walked_over() {
    let fixture = Fixture::new().await;
    let mut long = fixture.begin().await;
    sqlx::raw_sql("SELECT tide.outbox_publish_many('events', array_agg(to_jsonb(n))) FROM generate_series(1, 20000) n")
        .execute(&mut *long)
        .await
        .expect("published");
    let mut connection = fixture.pool.acquire().await.expect("connected");
    // At first no later transaction has ended, and snapshots end below it; then
    // they name it.
    for named in [false, true] {
        if named {
            fixture.publish().await;
        }
        let (seen, _) = fixture.open(&Snapshot::nothing()).await;
        assert!(!named || !seen.in_progress().is_empty());
        let late: Vec<String> = seen.in_progress().iter().map(u64::to_string).collect();
        let window = format!("{}, '{}', '{{{}}}', 2000", fixture.outbox.0, seen.xmax(), late.join(","));
        // One row: the snapshot.
        let cost = explain(&mut connection, "open_window", &window, "force_generic_plan").await;
        cost.assert(1, 60, "a window beside a long transaction");
        let probe = format!("'{{{}}}', '{{\"{seen}\"}}'", fixture.outbox.0);
        let cost = explain(&mut connection, "probe", &probe, "force_generic_plan").await;
        cost.assert(1, 20, "a probe beside a long transaction");
        let id = fixture.publish().await;
        let (_, rows) = fixture.open(&seen).await;
        assert_eq!(rows, [id]);
    }
    long.rollback().await.expect("rolled back");
}
