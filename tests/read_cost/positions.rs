//! What saving a position costs while a transaction stays open: its row has a version for
//! each save then, and none can be cleared away.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgPool};
use tidegate::core::ports::{Fenced, OutboxStore};
use tidegate::core::position::{Position, WindowNumber};
use tidegate::postgres::PgOutboxStore;
use tidegate::postgres::pool::{PoolSettings, connect_lazily};

use crate::database;
use crate::outbox::{Fixture, granted};

const SAVES: u64 = 2_000;

/// Pages touched by a save, of the table and of its index, on average: the row's page and
/// the new version's; and once for about twenty saves, when a page is full, the index,
/// where every page that has an old version is looked at for another row of the same key.
/// (Found by the key, a save touches half of those pages: 25 here.)
const MOST_PAGES: u64 = 6;

/// How often the row was written and pages of the table and its index touched, by sessions
/// that have ended.
async fn counted(pool: &PgPool) -> (u64, u64) {
    let counts: (i64, i64) = sqlx::query_as(
        "SELECT t.n_tup_upd, b.heap_blks_hit + b.heap_blks_read + b.idx_blks_hit + b.idx_blks_read
        FROM pg_stat_user_tables AS t JOIN pg_statio_user_tables AS b ON b.relid = t.relid
        WHERE t.relid = 'tide.relay_position'::regclass",
    )
    .fetch_one(pool)
    .await
    .expect("counted");
    let count = |number: i64| u64::try_from(number).expect("a count");
    (count(counts.0), count(counts.1))
}

/// Its position and that of others: what is saved often stands beside what is not.
async fn fixture() -> (Fixture, PoolSettings) {
    let name = database::migrated_database().await;
    let mut settings = PoolSettings::new(&database::server().url_as(database::OWNER, &name));
    settings.max_connections = 1;
    let pool = database::pool(&name);
    let own = connect_lazily(&settings).expect("a pool");
    let fixture = Fixture::on(pool, PgOutboxStore::new(own.clone())).await;
    fixture
        .run("ALTER TABLE tide.relay_position SET (autovacuum_enabled = off)")
        .await;
    (fixture, settings)
}

async fn save(store: &PgOutboxStore, saves: u64) {
    let epoch = {
        let claim = store.claim(crate::outbox::request("node")).await;
        granted(claim.expect("an answer")).0
    };
    for number in 1..=saves {
        let position = Position {
            last_number: WindowNumber(number),
            ..Position::start()
        };
        let saved = store.save_position("p", epoch, &position, &[]).await;
        assert_eq!(saved, Ok(Fenced::Written));
    }
}

#[tokio::test]
async fn saves_do_not_walk_over_versions_that_an_open_transaction_keeps() {
    let (fixture, settings) = fixture().await;
    let mut open = fixture.begin().await;
    sqlx::raw_sql("SELECT tide.outbox_publish('events', '{}')")
        .execute(&mut *open)
        .await
        .expect("published");
    let own = connect_lazily(&settings).expect("a pool");
    save(&PgOutboxStore::new(own.clone()), SAVES).await;
    // A session tells what it has counted when it ends.
    own.close().await;
    let mut waits = 0;
    let (saves, pages) = loop {
        let (saves, pages) = counted(&fixture.pool).await;
        if saves >= SAVES {
            break (saves, pages);
        }
        waits += 1;
        assert!(waits < 600, "{saves} saves are counted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let of_each = pages / saves;
    eprintln!("{saves} saves, {pages} pages");
    assert!(
        of_each <= MOST_PAGES,
        "{of_each} pages for each of {saves} saves"
    );
    open.rollback().await.expect("rolled back");
}

/// Whatever the planner knows of the table.
#[tokio::test]
async fn a_save_finds_its_row_by_its_place() {
    let (fixture, settings) = fixture().await;
    save(&fixture.store, 1).await;
    let (_, sql) = PgOutboxStore::EXPLAINED_STATEMENTS
        .into_iter()
        .find(|(name, _)| *name == "save_position")
        .expect("the save");
    let own = connect_lazily(&settings).expect("a pool");
    let mut connection = own.acquire().await.expect("connected");
    for analysed in [false, true] {
        if analysed {
            fixture.run("VACUUM ANALYZE tide.relay_position").await;
        }
        for mode in ["force_generic_plan", "force_custom_plan"] {
            let prepare = format!(
                "SET plan_cache_mode = {mode}; DEALLOCATE ALL;
                PREPARE save (text, bigint, text, bigint, text, bigint, text, bigint, bigint, text) AS {sql}"
            );
            sqlx::raw_sql(AssertSqlSafe(prepare))
                .execute(&mut *connection)
                .await
                .expect("prepared");
            let plan: Vec<String> = sqlx::query_scalar(
                "EXPLAIN EXECUTE save ('p', 1, '1:1:', 1, '[]', 0, '[]', 2, 0, '(0,1)')",
            )
            .persistent(false)
            .fetch_all(&mut *connection)
            .await
            .expect("explained");
            let plan = plan.join("\n");
            assert!(
                plan.contains("Tid Scan on relay_position"),
                "analysed {analysed}, {mode}\n{plan}"
            );
        }
    }
}

/// A place that is wrong by now is no refusal.
#[tokio::test]
async fn a_row_that_has_moved_is_found_by_its_key() {
    let (fixture, _) = fixture().await;
    let epoch = {
        let claim = fixture.claim("node").await;
        granted(claim).0
    };
    let mut number = 0;
    for moves in [
        "SELECT 1",
        "UPDATE tide.relay_position SET began_after = began_after",
        "INSERT INTO tide.relay_position (pipeline, epoch) SELECT 'a' || n, 1 FROM generate_series(1, 100) n;
        UPDATE tide.relay_position SET began_after = 0; CLUSTER tide.relay_position USING relay_position_pkey",
        "VACUUM FULL tide.relay_position",
        "DELETE FROM tide.relay_position WHERE pipeline <> 'p'",
    ] {
        fixture.run(moves).await;
        number += 1;
        let position = Position {
            last_number: WindowNumber(number),
            ..Position::start()
        };
        let saved = fixture.store.save_position("p", epoch, &position, &[]);
        assert_eq!(saved.await, Ok(Fenced::Written), "{moves}");
        let (last, others): (i64, i64) = sqlx::query_as(
            "SELECT max(last_number) FILTER (WHERE pipeline = 'p'),
                count(*) FILTER (WHERE pipeline <> 'p' AND last_number <> 0)
            FROM tide.relay_position",
        )
        .fetch_one(&fixture.pool)
        .await
        .expect("read");
        assert_eq!((last, others), (i64::try_from(number).expect("few"), 0), "{moves}");
    }
    fixture
        .run("UPDATE tide.relay_position SET epoch = epoch + 1")
        .await;
    let saved = fixture
        .store
        .save_position("p", epoch, &Position::start(), &[])
        .await;
    assert_eq!(saved, Ok(Fenced::Stale));
}
