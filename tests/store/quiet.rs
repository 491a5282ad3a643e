//! Probes of many outboxes, which one question may answer while no id is drawn.

use std::time::Duration;

use tidegate::core::ports::{OutboxId, OutboxStore, ProbeTarget};
use tidegate::core::snapshot::Snapshot;

use crate::outbox::{Fixture, publish};

/// So many outboxes that one question answers for all while no id is drawn. The late
/// transaction's xid is above those of all that have ended, so no snapshot lists it, and
/// it has drawn its id before it is first overlooked.
#[tokio::test]
async fn a_transaction_that_no_snapshot_lists_is_not_overlooked_among_many_outboxes() {
    let fixture = Fixture::new().await;
    let probe = |seen: Snapshot| {
        let targets = (0..40).map(|place| ProbeTarget {
            outbox: if place == 7 {
                fixture.outbox
            } else {
                OutboxId(9_000 + place)
            },
            seen: seen.clone(),
        });
        let targets: Vec<ProbeTarget> = targets.collect();
        let store = &fixture.store;
        async move { store.probe(&targets).await.expect("a report") }
    };
    for _ in 0..20 {
        let mut report = probe(Snapshot::nothing()).await;
        report = probe(report.snapshot).await;
        let mut late = fixture.begin().await;
        publish(&mut late).await;
        for _ in 0..3 {
            report = probe(report.snapshot).await;
            assert!(!report.news.contains(&true), "it has not committed");
        }
        late.commit().await.expect("committed");
        let seen = report.snapshot.clone();
        let mut has_news = false;
        // Whoever is told that there is nothing new goes on from there.
        for _ in 0..3 {
            report = probe(report.snapshot).await;
            has_news |= report.news[7];
            if has_news {
                break;
            }
        }
        assert!(has_news, "nothing new since {seen}");
    }
}

/// What probes take for the next transaction id is the one that is handed out.
#[tokio::test]
async fn the_age_of_the_first_xid_tells_the_next_one() {
    let fixture = Fixture::new().await;
    let deadline = Duration::from_secs(20);
    let found = tokio::time::timeout(deadline, async {
        loop {
            let age: i32 = sqlx::query_scalar("SELECT age('3'::xid)")
                .fetch_one(&fixture.pool)
                .await
                .expect("an age");
            let xid: String = sqlx::query_scalar("SELECT pg_current_xact_id()::text")
                .fetch_one(&fixture.pool)
                .await
                .expect("an xid");
            let xid: i32 = xid.parse().expect("a young server's");
            assert!(xid >= age + 3, "{xid} was not the next, age {age}");
            // Others on this server may take one between the two questions.
            if xid == age + 3 {
                break;
            }
        }
    });
    found.await.expect("the next one, once");
}
