//! Whatever the interleaving: no batch deletes a row that some reader has not
//! settled, and in the end everything goes.

use std::collections::BTreeMap;

use sqlx::{Postgres, Transaction};
use tidegate::core::position::RowId;
use tidegate::core::retention::settled_by_all;
use tidegate::core::snapshot::{Snapshot, Xid};

use crate::outbox::{Fixture, publish};
use crate::outbox_of_old_rows;

const DEFINED: &str = "defined";

/// Rows that are visible, with their transactions.
async fn rows(fixture: &Fixture) -> BTreeMap<RowId, Xid> {
    let rows: Vec<(i64, String)> = sqlx::query_as("SELECT id, xact::text FROM tide.outbox_message")
        .fetch_all(&fixture.pool)
        .await
        .expect("rows");
    let parse = |(id, xact): (i64, String)| (id, xact.parse().expect("a transaction"));
    rows.into_iter().map(parse).collect()
}

/// Transactions begin, publish, nest, commit and roll back; three pipelines settle
/// at their own pace, one is defined, disabled and deleted; batches of any size run
/// between any two steps.
#[tokio::test]
async fn no_interleaving_deletes_what_is_not_settled_by_all() {
    let names = ["a", "b", "c"];
    for seed in 1..=6 {
        let fixture = outbox_of_old_rows().await;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut running: Vec<Transaction<'static, Postgres>> = Vec::new();
        let mut bases: BTreeMap<&str, Snapshot> = BTreeMap::new();
        for name in names {
            fixture.take(name).await;
            bases.insert(name, Snapshot::nothing());
        }
        let mut snapshots = vec![Snapshot::nothing()];
        let mut deleted = 0;
        for step in 0..400 {
            match random.u32(0..16) {
                0 | 1 if running.len() < 8 => running.push(fixture.begin().await),
                2..=5 if !running.is_empty() => {
                    let index = random.usize(0..running.len());
                    publish(&mut running[index]).await;
                }
                6 | 7 if !running.is_empty() => {
                    let transaction = running.swap_remove(random.usize(0..running.len()));
                    if random.u32(0..5) == 0 {
                        transaction.rollback().await.expect("rolled back");
                    } else {
                        transaction.commit().await.expect("committed");
                    }
                }
                8 | 9 => snapshots.push(fixture.now().await),
                10..=12 => {
                    let name = names[random.usize(0..names.len())];
                    // On to some snapshot it has not come to yet.
                    let base = snapshots[random.usize(0..snapshots.len())].clone();
                    if base.covers(&bases[name]) {
                        fixture.settle(name, &base).await;
                        bases.insert(name, base);
                    }
                }
                13 if bases.contains_key(DEFINED) => {
                    bases.remove(DEFINED);
                    fixture.run("SELECT tide.relay_delete('defined')").await;
                }
                13 if random.u32(0..4) == 0 => {
                    bases.insert(DEFINED, Snapshot::nothing());
                    fixture
                        .run(
                            r#"SELECT tide.relay_set_outbox('defined', 'events', '{"sink_type": "kinesis", "stream_name": "s"}');
                            SELECT tide.relay_disable('defined')"#,
                        )
                        .await;
                }
                _ => {
                    let before = rows(&fixture).await;
                    let done = fixture.batch(random.u32(1..8)).await;
                    let after = rows(&fixture).await;
                    let gone = before.iter().filter(|(id, _)| !after.contains_key(id));
                    let mut count = 0;
                    for (id, xact) in gone {
                        count += 1;
                        for (name, base) in &bases {
                            assert!(
                                base.sees(*xact),
                                "seed {seed} step {step}: row {id} of {xact} is gone, {name} is at {base}"
                            );
                        }
                    }
                    assert_eq!(count, done.rows, "seed {seed} step {step}");
                    deleted += count;
                    // What is not deleted is there for a reason.
                    let settled = settled_by_all(bases.values()).expect("readers");
                    if done.rows == 0 {
                        let stays: Vec<_> = after
                            .iter()
                            .take_while(|(_, xact)| settled.sees(**xact))
                            .collect();
                        assert!(
                            stays.is_empty(),
                            "seed {seed} step {step}: {stays:?} stay, all at {settled}"
                        );
                    }
                }
            }
        }
        for transaction in running {
            transaction.commit().await.expect("committed");
        }
        if bases.contains_key(DEFINED) {
            fixture.run("SELECT tide.relay_delete('defined')").await;
        }
        let end = fixture.now().await;
        for name in names {
            fixture.settle(name, &end).await;
        }
        while fixture.batch(7).await.more {}
        assert_eq!(fixture.kept().await, [0; 0], "seed {seed}");
        assert!(deleted > 20, "seed {seed}: only {deleted} rows on the way");
    }
}
