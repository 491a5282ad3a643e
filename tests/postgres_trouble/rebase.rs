//! A database that was restored from a dump: refused, rebased, whole.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, PgPool};
use tidegate::core::ports::{Claim, ClaimRequest, Fenced, OutboxId, OutboxStore, StoreError};
use tidegate::core::position::{OpenWindow, Position, RowId};
use tidegate::core::retention::RetentionStore;
use tidegate::core::snapshot::Snapshot;
use tidegate::demo::private_postgres::{PrivatePostgres, PrivatePostgresOptions};
use tidegate::postgres::PgOutboxStore;
use tidegate::postgres::pool::{PoolSettings, connect_lazily};
use tidegate::postgres::rebase::{outboxes, rebase};
use tidegate::postgres::schema;

use crate::outbox::{Fixture, LEASE, PAGE, granted, publish};

fn server() -> PrivatePostgres {
    PrivatePostgres::start(PrivatePostgresOptions::default()).expect("a server")
}

async fn run(pool: &PgPool, sql: &str) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await;
    if let Err(error) = done {
        panic!("{sql}\n{error}");
    }
}

const fn request(pipeline: &'static str) -> ClaimRequest<'static> {
    ClaimRequest {
        pipeline,
        version: None,
        outbox: "events",
        node: "node",
        lease: LEASE,
    }
}

fn refusal(answer: Result<Claim, StoreError>) -> String {
    match answer {
        Err(StoreError::Refused(reason)) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

/// Uses up transaction ids.
async fn burn(pool: &PgPool, xids: u32) {
    run(
        pool,
        &format!(
            "DO $$ BEGIN FOR n IN 1..{xids} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
        ),
    )
    .await;
}

/// Reads window after window from a position until there is nothing new.
pub(crate) async fn read_on(
    fixture: &Fixture,
    from: &Snapshot,
    page: u32,
) -> (Snapshot, Vec<Vec<RowId>>) {
    let mut seen = from.clone();
    let mut windows = Vec::new();
    loop {
        let opened = fixture
            .store
            .open_window(fixture.outbox, &seen, page.into())
            .await
            .expect("a window");
        let rows = fixture
            .read_all(&seen, &opened.snapshot, opened.rows, page)
            .await;
        seen = opened.snapshot;
        if rows.is_empty() {
            return (seen, windows);
        }
        windows.push(rows);
    }
}

/// What two pipelines have of an outbox when it is dumped.
struct Before {
    /// All messages of the dump.
    all: BTreeSet<RowId>,
    /// What "ahead" has settled.
    ahead: BTreeSet<RowId>,
    /// What "behind" has settled.
    behind: BTreeSet<RowId>,
    last_number: u64,
}

/// Publishes, settles some of it for two pipelines, and leaves late committers.
async fn fill(fixture: &Fixture) -> Before {
    let store = &fixture.store;
    let (ahead, _) = granted(store.claim(request("ahead")).await.expect("an answer"));
    let (behind, _) = granted(store.claim(request("behind")).await.expect("an answer"));
    let mut late = fixture.begin().await;
    let late_row = publish(&mut late).await;
    for _ in 0..60 {
        fixture.publish().await;
    }
    let (first, rows) = fixture.open(&Snapshot::nothing()).await;
    let settled_id = rows[24];
    // "behind" is inside of this window: 25 of its 60 messages are settled.
    let inside = Position {
        open: vec![OpenWindow {
            number: tidegate::core::position::WindowNumber(1),
            snapshot: first.clone(),
        }],
        settled_id,
        last_number: tidegate::core::position::WindowNumber(1),
        ..Position::start()
    };
    let fenced = store.save_position("behind", behind, &inside, &[]).await;
    assert_eq!(fenced, Ok(Fenced::Written));
    let behind: BTreeSet<RowId> = rows[..25].iter().copied().collect();
    for _ in 0..30 {
        fixture.publish().await;
    }
    // "ahead" has settled all but the late one, which commits after that.
    let (second, more) = fixture.open(&first).await;
    let settled = Position {
        base: second,
        last_number: tidegate::core::position::WindowNumber(2),
        ..Position::start()
    };
    let fenced = store.save_position("ahead", ahead, &settled, &[]).await;
    assert_eq!(fenced, Ok(Fenced::Written));
    let settled_ahead: BTreeSet<RowId> = rows.iter().chain(&more).copied().collect();
    late.commit().await.expect("committed");
    let mut all = settled_ahead.clone();
    all.insert(late_row);
    for _ in 0..20 {
        all.insert(fixture.publish().await);
    }
    assert_eq!(all.len(), 111);
    Before {
        all,
        ahead: settled_ahead,
        behind,
        last_number: 2,
    }
}

async fn restored_and_rebased(burnt_before: u32, burnt_after: u32, dump: &[&str]) {
    let (old, new) = (server(), server());
    let url = old.create_database("app").await.expect("a database");
    let pool = connect_lazily(&PoolSettings::new(&url)).expect("a pool");
    schema::migrate(&pool).await.expect("migrated");
    burn(&pool, burnt_before).await;
    let fixture = Fixture::on(pool.clone(), PgOutboxStore::new(pool.clone())).await;
    let before = fill(&fixture).await;
    pool.close().await;

    let url = new.create_database("app").await.expect("a database");
    let pool = connect_lazily(&PoolSettings::new(&url)).expect("a pool");
    burn(&pool, burnt_after).await;
    old.dump_into("app", &new, "app", dump).expect("restored");
    let store = PgOutboxStore::new(pool.clone());
    let outbox = OutboxId(
        sqlx::query_scalar("SELECT outbox_id FROM tide.outbox")
            .fetch_one(&pool)
            .await
            .expect("the outbox"),
    );
    let fixture = Fixture {
        pool: pool.clone(),
        store,
        outbox,
    };
    // Publishers do not wait for anybody.
    let mut published = BTreeSet::new();
    for _ in 0..5 {
        published.insert(fixture.publish().await);
    }
    let mut nested = fixture.begin().await;
    run_in(&mut nested, "SAVEPOINT s").await;
    published.insert(publish(&mut nested).await);
    run_in(&mut nested, "RELEASE s").await;
    nested.commit().await.expect("committed");
    let mut open = fixture.begin().await;
    let still_open = publish(&mut open).await;
    published.insert(fixture.publish().await);

    for pipeline in ["ahead", "behind", "new"] {
        let reason = refusal(fixture.store.claim(request(pipeline)).await);
        assert!(
            reason.contains("tidegate rebase --outbox events"),
            "{reason}"
        );
    }

    let asked = rebase(&pool, "events", true).await.expect("a dry run");
    let refused = refusal(fixture.store.claim(request("ahead")).await);
    assert!(refused.contains("rebase"), "a dry run changes nothing");
    let done = rebase(&pool, "events", false).await.expect("rebased");
    assert!(done.needed, "{done:?}");
    assert_eq!(asked.pipelines, done.pipelines);
    let messages = before.all.len() + published.len();
    assert_eq!(done.messages, messages as u64, "{done:?}");

    let settled_of = [("ahead", &before.ahead), ("behind", &before.behind)];
    for ((pipeline, settled), counted) in settled_of.into_iter().zip(&done.pipelines) {
        let expected: Vec<RowId> = before
            .all
            .difference(settled)
            .chain(&published)
            .copied()
            .collect();
        assert_eq!(
            (counted.settled, counted.to_deliver),
            (settled.len() as u64, expected.len() as u64),
            "{pipeline}"
        );
        let (_, position) = granted(
            fixture
                .store
                .claim(request(pipeline))
                .await
                .expect("an answer"),
        );
        assert!(position.last_number.0 > before.last_number + 1_000_000_000);
        assert!(position.marks.is_empty() && position.open.is_empty());
        for page in [7, PAGE] {
            let (_, windows) = read_on(&fixture, position.head(), page).await;
            assert_eq!(
                windows,
                std::slice::from_ref(&expected),
                "{pipeline}, pages of {page}"
            );
        }
    }
    let (_, position) = granted(
        fixture
            .store
            .claim(request("new"))
            .await
            .expect("an answer"),
    );
    let (seen, windows) = read_on(&fixture, position.head(), PAGE).await;
    assert_eq!(windows[0].len(), messages, "a new pipeline reads all");

    open.commit().await.expect("committed");
    let next = fixture.publish().await;
    assert!(
        next > still_open + 900_000,
        "ids are not used again: {next}"
    );
    let (_, windows) = read_on(&fixture, &seen, PAGE).await;
    assert_eq!(windows, [vec![still_open, next]]);
    let again = rebase(&pool, "events", false).await.expect("an answer");
    assert!(!again.needed, "{again:?}");
}

async fn run_in(connection: &mut sqlx::PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql)
        .execute(connection)
        .await
        .expect("it works");
}

#[tokio::test]
async fn a_dump_restored_into_a_fresh_cluster_is_rebased_without_a_loss() {
    restored_and_rebased(2_000, 0, &[]).await;
}

/// The subtle case: the new cluster's ids have passed the old positions already,
/// so nothing lies in the future.
#[tokio::test]
async fn a_dump_restored_into_a_busy_cluster_is_rebased_without_a_loss() {
    restored_and_rebased(0, 3_000, &[]).await;
}

#[tokio::test]
async fn ids_in_the_past_of_one_and_the_future_of_the_other_are_told_apart() {
    restored_and_rebased(100, 150, &["--inserts", "--rows-per-insert=1000"]).await;
}

/// What is carried along by copies of files, and by everything that is no copy,
/// stays of this database.
#[tokio::test]
async fn rewriting_tables_and_copying_files_is_no_other_database() {
    let server = server();
    let url = server.create_database("app").await.expect("a database");
    let pool = connect_lazily(&PoolSettings::new(&url)).expect("a pool");
    schema::migrate(&pool).await.expect("migrated");
    let fixture = Fixture::on(pool.clone(), PgOutboxStore::new(pool.clone())).await;
    fixture.publish().await;
    granted(fixture.store.claim(request("p")).await.expect("an answer"));
    run(&pool, "VACUUM FREEZE tide.relay_database").await;
    run(&pool, "VACUUM FULL tide.relay_database").await;
    granted(fixture.store.claim(request("p")).await.expect("an answer"));
    assert_eq!(
        outboxes(&pool, None, Some("p")).await,
        Ok(vec!["events".to_owned()])
    );
    let rebased = rebase(&pool, "events", false).await.expect("an answer");
    assert!(!rebased.needed);
    pool.close().await;

    let url = server
        .create_database_like("copy", "app")
        .await
        .expect("a copy");
    let pool = connect_lazily(&PoolSettings::new(&url)).expect("a pool");
    let store = PgOutboxStore::new(pool);
    granted(store.claim(request("p")).await.expect("an answer"));
}

/// All settled by a position of the old database, and copied from it.
async fn copied() -> (PrivatePostgres, Fixture) {
    let (old, new) = (server(), server());
    let url = old.create_database("app").await.expect("a database");
    let pool = connect_lazily(&PoolSettings::new(&url)).expect("a pool");
    schema::migrate(&pool).await.expect("migrated");
    burn(&pool, 3_000).await;
    let fixture = Fixture::on(pool.clone(), PgOutboxStore::new(pool.clone())).await;
    let (epoch, _) = granted(fixture.store.claim(request("ahead")).await.expect("taken"));
    fixture.publish().await;
    let (base, _) = fixture.open(&Snapshot::nothing()).await;
    let settled = Position {
        base,
        ..Position::start()
    };
    let saved = fixture.store.save_position("ahead", epoch, &settled, &[]);
    assert_eq!(saved.await, Ok(Fenced::Written));
    pool.close().await;
    let url = new.create_database("app").await.expect("a database");
    let pool = connect_lazily(&PoolSettings::new(&url)).expect("a pool");
    old.dump_into("app", &new, "app", &[]).expect("restored");
    let store = PgOutboxStore::new(pool.clone());
    let fixture = Fixture {
        pool,
        store,
        outbox: fixture.outbox,
    };
    (new, fixture)
}

/// The old base "sees" the low transaction ids of the copy: its messages would count
/// as settled.
#[tokio::test]
async fn retention_deletes_nothing_from_a_copy_that_is_not_rebased() {
    let (_server, fixture) = copied().await;
    let published = fixture.publish().await;
    run(
        &fixture.pool,
        "UPDATE tide.outbox_message SET created_at = created_at - interval '3 days'",
    )
    .await;
    let kept = async |expected: i64| {
        let done = fixture.store.remove_batch(fixture.outbox, &[], 100).await;
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM tide.outbox_message")
            .fetch_one(&fixture.pool)
            .await
            .expect("counted");
        assert_eq!(
            (done.expect("a batch").rows, left),
            (2 - left.unsigned_abs(), expected)
        );
    };
    kept(2).await;
    // Nor where just the position is of another database.
    run(
        &fixture.pool,
        "UPDATE tide.outbox SET place = tide.relay_this_database()",
    )
    .await;
    kept(2).await;
    // The position being of this database, it is what settles them.
    run(
        &fixture.pool,
        "UPDATE tide.relay_position SET place = tide.relay_this_database()",
    )
    .await;
    let _ = published;
    kept(0).await;
}

/// A position that lay before removed messages when the dump was taken is not let on
/// by a rebase.
#[tokio::test]
async fn a_position_before_removed_messages_is_not_rebased_silently() {
    let (_server, fixture) = copied().await;
    run(
        &fixture.pool,
        "INSERT INTO tide.outbox_retention (outbox_id, removed_rows, removed_id, removed_xact, removed_seen)
         SELECT outbox_id, 5, 9, '9000', '9001:9001:' FROM tide.outbox",
    )
    .await;
    for dry_run in [true, false] {
        let refused = rebase(&fixture.pool, "events", dry_run).await;
        let text = refused.expect_err("refused").to_string();
        assert!(
            text.contains("\"ahead\"") || text.contains("'ahead'"),
            "{text}"
        );
        assert!(text.contains("relay_accept_removed"), "{text}");
    }
    run(&fixture.pool, "SELECT tide.relay_accept_removed('ahead')").await;
    let done = rebase(&fixture.pool, "events", false).await;
    assert!(done.expect("rebased").needed);
    granted(fixture.store.claim(request("ahead")).await.expect("taken"));
}
