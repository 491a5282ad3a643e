//! Probes of many outboxes, which one question may answer while no id is drawn.

use std::time::Duration;

use tidegate::core::ports::{OutboxId, OutboxStore, ProbeReport, ProbeTarget};
use tidegate::core::snapshot::Snapshot;

use crate::outbox::{Fixture, publish};

/// Where the fixture's outbox stands among many.
const PLACE: i32 = 7;

/// What a reader has seen after a probe without news.
fn seen_after(report: &ProbeReport, before: Snapshot) -> Snapshot {
    if report.looked {
        report.snapshot.clone()
    } else {
        before
    }
}

/// Asks for so many outboxes that one question may answer for all; the fixture's is the
/// one at [`PLACE`].
async fn probe(fixture: &Fixture, seen: &Snapshot) -> ProbeReport {
    let targets = (0..40).map(|place| ProbeTarget {
        outbox: if place == PLACE {
            fixture.outbox
        } else {
            OutboxId(9_000 + place)
        },
        seen: seen.clone(),
    });
    let targets: Vec<ProbeTarget> = targets.collect();
    fixture.store.probe(&targets).await.expect("a report")
}

/// Whether the fixture's outbox has news.
fn has_news(report: &ProbeReport) -> bool {
    report.news[usize::try_from(PLACE).expect("a place")]
}

/// The late transaction's xid is above those of all that have ended, so no snapshot lists
/// it, and it has drawn its id before it is first overlooked.
#[tokio::test]
async fn a_transaction_that_no_snapshot_lists_is_not_overlooked_among_many_outboxes() {
    let fixture = Fixture::new().await;
    for _ in 0..20 {
        let mut seen = probe(&fixture, &Snapshot::nothing()).await.snapshot;
        seen = seen_after(&probe(&fixture, &seen).await, seen);
        let mut late = fixture.begin().await;
        publish(&mut late).await;
        for _ in 0..3 {
            let report = probe(&fixture, &seen).await;
            assert!(!report.news.contains(&true), "it has not committed");
            seen = seen_after(&report, seen);
        }
        late.commit().await.expect("committed");
        let mut found = false;
        // Whoever is told that there is nothing new goes on from there.
        for _ in 0..3 {
            let report = probe(&fixture, &seen).await;
            found |= has_news(&report);
            if found {
                break;
            }
            seen = seen_after(&report, seen);
        }
        assert!(found, "nothing new since {seen}");
    }
}

/// A row that was given an id in place of drawing one moves no sequence. It comes up
/// while one question answers for all, and is found when they are looked into again.
#[tokio::test]
async fn a_row_with_an_id_made_by_hand_is_found_a_little_later() {
    let fixture = Fixture::new().await;
    let rounds = async {
        let mut seen = Snapshot::nothing();
        // What others do on this server may cause a look: then once more.
        for id in 1_000_000_i64.. {
            loop {
                let report = probe(&fixture, &seen).await;
                assert!(!has_news(&report), "there is nothing new");
                seen = seen_after(&report, seen);
                if !report.looked {
                    break;
                }
            }
            sqlx::query(
                "INSERT INTO tide.outbox_message (id, outbox_id, dedup_key, payload)
                OVERRIDING SYSTEM VALUE VALUES ($1, $2, 'k', '{}')",
            )
            .bind(id)
            .bind(fixture.outbox.0)
            .execute(&fixture.pool)
            .await
            .expect("a row");
            let mut quiet = 0;
            loop {
                let report = probe(&fixture, &seen).await;
                if has_news(&report) {
                    seen = report.snapshot;
                    break;
                }
                assert!(!report.looked, "looked into, and not found");
                quiet += 1;
                seen = seen_after(&report, seen);
            }
            if quiet > 0 {
                break;
            }
        }
    };
    let rounds = tokio::time::timeout(Duration::from_secs(30), rounds).await;
    rounds.expect("found after one question has answered for all");
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
