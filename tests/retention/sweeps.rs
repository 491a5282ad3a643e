//! Sweeps: in order, in batches, past late committers, at a flat cost.

use sqlx::{AssertSqlSafe, Row};
use tidegate::core::ports::{OutboxStore, WindowRows};
use tidegate::core::retention::{BatchDone, RetentionStore, Survey};
use tidegate::core::snapshot::Snapshot;
use tidegate::postgres::PgOutboxStore;

use crate::outbox::{Fixture, publish};
use crate::statements::value;
use crate::{TURN, outbox_of_old_rows};

#[tokio::test]
async fn settled_rows_go_in_batches_from_the_lowest_id() {
    let fixture = outbox_of_old_rows().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(fixture.publish().await);
    }
    assert_eq!(
        fixture.batch(10).await,
        BatchDone::default(),
        "nobody reads it"
    );
    fixture.settle("p", &fixture.now().await).await;
    ids.push(fixture.publish().await);
    assert_eq!(
        fixture.batch(2).await,
        BatchDone {
            rows: 2,
            more: true
        }
    );
    assert_eq!(fixture.kept().await, ids[2..]);
    assert_eq!(
        fixture.batch(2).await,
        BatchDone {
            rows: 2,
            more: true
        }
    );
    assert_eq!(
        fixture.batch(2).await,
        BatchDone {
            rows: 1,
            more: false
        }
    );
    assert_eq!(fixture.batch(2).await, BatchDone::default());
    assert_eq!(
        fixture.kept().await,
        ids[5..],
        "the last one is not settled"
    );
    let removed: (i64, i64) =
        sqlx::query_as("SELECT removed_rows, removed_id FROM tide.outbox_retention")
            .fetch_one(&fixture.pool)
            .await
            .expect("a row");
    assert_eq!(removed, (5, ids[4]));
}

#[tokio::test]
async fn rows_that_are_young_or_kept_for_ever_stay() {
    let fixture = outbox_of_old_rows().await;
    let old = fixture.publish().await;
    fixture
        .run("ALTER TABLE tide.outbox_message ALTER created_at SET DEFAULT clock_timestamp()")
        .await;
    let young = fixture.publish().await;
    fixture.settle("p", &fixture.now().await).await;
    assert_eq!(fixture.batch(10).await.rows, 1);
    assert_eq!(fixture.kept().await, [young]);
    assert!(old < young);
    fixture
        .run(
            "SELECT tide.outbox_set_retention('events', NULL);
            UPDATE tide.outbox_message SET created_at = '2020-01-01'",
        )
        .await;
    assert_eq!(fixture.batch(10).await, BatchDone::default());
    assert!(!fixture.surveyed().await.is_due());
    fixture
        .run("SELECT tide.outbox_set_retention('events', 1)")
        .await;
    assert_eq!(fixture.batch(10).await.rows, 1);
}

#[tokio::test]
async fn late_committers_are_fetched_when_they_are_settled() {
    let fixture = outbox_of_old_rows().await;
    let mut late = fixture.begin().await;
    let mut failed = fixture.begin().await;
    publish(&mut failed).await;
    let first_late = publish(&mut late).await;
    fixture.publish().await;
    let second_late = publish(&mut late).await;
    fixture.publish().await;
    fixture.settle("p", &fixture.now().await).await;
    assert_eq!(fixture.batch(10).await.rows, 2);
    late.commit().await.expect("committed");
    failed.rollback().await.expect("rolled back");
    fixture.publish().await;
    assert_eq!(fixture.batch(10).await, BatchDone::default());
    assert_eq!(fixture.kept().await.len(), 3, "none of these is settled");
    assert_eq!(fixture.kept().await[..2], [first_late, second_late]);
    let oldest = fixture.surveyed().await.oldest.expect("rows");
    assert!(oldest.as_secs() >= 7200, "{oldest:?}");

    fixture.settle("p", &fixture.now().await).await;
    assert_eq!(
        fixture.batch(1).await,
        BatchDone {
            rows: 1,
            more: true
        }
    );
    assert_eq!(fixture.kept().await.len(), 2);
    assert_eq!(fixture.batch(10).await.rows, 2);
    assert_eq!(fixture.kept().await, [0; 0]);
    // Transactions of other databases may have run when the last base was taken.
    let left = "SELECT count(*) FROM tide.outbox_retention AS t, unnest(t.left_behind) AS late (xid), tide.relay_position AS p
        WHERE pg_visible_in_snapshot(late.xid, p.base)";
    assert_eq!(value::<i64>(&fixture.pool, left).await, 0);
}

/// A late transaction with more rows than a batch looks at does not hide what lies
/// behind it.
#[tokio::test]
async fn a_late_transaction_of_many_rows_is_passed() {
    let fixture = outbox_of_old_rows().await;
    let mut late = fixture.begin().await;
    for _ in 0..25 {
        publish(&mut late).await;
    }
    fixture.publish().await;
    let base = fixture.now().await;
    late.commit().await.expect("committed");
    fixture.settle("p", &base).await;
    assert_eq!(
        fixture.batch(5).await,
        BatchDone {
            rows: 1,
            more: false
        }
    );
    assert_eq!(fixture.kept().await.len(), 25);
    fixture.settle("p", &fixture.now().await).await;
    for _ in 0..5 {
        assert_eq!(
            fixture.batch(5).await,
            BatchDone {
                rows: 5,
                more: true
            }
        );
    }
    assert_eq!(fixture.batch(5).await, BatchDone::default());
    assert_eq!(fixture.kept().await, [0; 0]);
}

#[tokio::test]
async fn a_busy_outbox_is_left_for_the_next_time() {
    let fixture = outbox_of_old_rows().await;
    fixture.publish().await;
    fixture.settle("p", &fixture.now().await).await;
    let mut definer = fixture.begin().await;
    sqlx::query("SELECT FROM tide.outbox FOR KEY SHARE")
        .execute(&mut *definer)
        .await
        .expect("locked");
    assert_eq!(fixture.batch(10).await, BatchDone::default());
    definer.commit().await.expect("committed");
    assert_eq!(fixture.batch(10).await.rows, 1);
}

#[tokio::test]
async fn one_node_has_the_turn_until_it_ends() {
    let fixture = outbox_of_old_rows().await;
    let ask = |node: &'static str, turn| {
        let store = fixture.store.clone();
        async move {
            let answer = store.survey(node, turn, &[]).await.expect("an answer");
            matches!(answer, Survey::Ours(_))
        }
    };
    assert!(ask("a", TURN).await && ask("a", TURN).await);
    assert!(!ask("b", TURN).await);
    assert!(ask("a", std::time::Duration::ZERO).await);
    assert!(ask("b", TURN).await, "it has ended");
    assert!(!ask("a", TURN).await);
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_will_do() {
    let fixture = outbox_of_old_rows().await;
    fixture.publish().await;
    fixture.settle("p", &fixture.now().await).await;
    let shared = PgOutboxStore::new(fixture.pool.clone()).with_shared_sessions();
    assert!(matches!(
        shared.survey("node", TURN, &[]).await,
        Ok(Survey::Ours(_))
    ));
    let done = shared.remove_batch(fixture.outbox, &[], 10).await;
    assert_eq!(
        done,
        Ok(BatchDone {
            rows: 1,
            more: false
        })
    );
}

/// Pages a sweeping statement touches.
async fn pages(fixture: &Fixture, statement: &str, types: &str, arguments: &str) -> i64 {
    let mut transaction = fixture.begin().await;
    let (_, sql) = PgOutboxStore::EXPLAINED_STATEMENTS
        .into_iter()
        .find(|(name, _)| *name == statement)
        .expect("a statement");
    let prepare = format!("DEALLOCATE ALL; PREPARE sweeping ({types}) AS {sql}");
    sqlx::raw_sql(AssertSqlSafe(prepare))
        .execute(&mut *transaction)
        .await
        .expect("prepared");
    let explain = format!(
        "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE sweeping ({arguments})"
    );
    let rows = sqlx::raw_sql(AssertSqlSafe(explain))
        .fetch_one(&mut *transaction)
        .await
        .expect("explained");
    let plan: serde_json::Value = rows.get(0);
    let of = |what: &str| plan[0]["Plan"][what].as_i64().expect("a number");
    transaction.rollback().await.expect("rolled back");
    of("Shared Hit Blocks") + of("Shared Read Blocks")
}

/// What was deleted and is not vacuumed yet is not walked over again: neither by
/// the sweep, nor by a look, nor by a reader.
#[tokio::test]
async fn the_cost_does_not_grow_with_what_was_deleted() {
    let fixture = outbox_of_old_rows().await;
    fixture
        .run(
            "ALTER TABLE tide.outbox_message SET (autovacuum_enabled = off);
            SELECT tide.outbox_publish_many('events', array_agg(to_jsonb(n))) FROM generate_series(1, 60000) n",
        )
        .await;
    fixture.settle("p", &fixture.now().await).await;
    // Nothing that was deleted may be forgotten meanwhile.
    let mut long = fixture.begin().await;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; ")
        .execute(&mut *long)
        .await
        .expect("set");
    sqlx::query("SELECT 1 FROM tide.outbox")
        .execute(&mut *long)
        .await
        .expect("a snapshot");
    let types = "int, bigint, text, int, bigint, bigint";
    let base = fixture.now().await;
    // One that finds all rows too young, so that only the search counts.
    let sweep = |after: i64| format!("{}, {after}, '{base}', 100, 500, 500", fixture.outbox.0);
    let before = pages(&fixture, "sweep", types, &sweep(0)).await;
    for _ in 0..100 {
        assert_eq!(fixture.batch(500).await.rows, 500);
    }
    let swept: i64 = value(&fixture.pool, "SELECT swept_id FROM tide.outbox_retention").await;
    let after = pages(&fixture, "sweep", types, &sweep(swept)).await;
    let from_the_start = pages(&fixture, "sweep", types, &sweep(0)).await;
    assert!(after <= before * 2, "{before} pages, then {after}");
    assert!(
        from_the_start > 4 * after,
        "the test cannot tell: {from_the_start} and {after}"
    );
    let late = pages(
        &fixture,
        "fetch_late",
        "int, bigint, text[], int, bigint",
        &format!("{}, {swept}, '{{5,6,7}}', 1, 500", fixture.outbox.0),
    )
    .await;
    assert!(
        late <= 20,
        "{late} pages for three transactions without rows"
    );

    fixture.publish().await;
    let opened = fixture
        .store
        .open_window(fixture.outbox, &base, 100.into())
        .await;
    assert!(matches!(opened.expect("a window").rows, WindowRows::Whole(rows) if rows.len() == 1));
    assert_ne!(base, Snapshot::nothing());
    long.rollback().await.expect("rolled back");
}
