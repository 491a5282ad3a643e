//! Positions and removals: a new pipeline begins at the oldest row kept, an old
//! position is refused, and the two never pass each other unseen.

use tidegate::core::ports::{OutboxStore, StoreError};
use tidegate::core::position::OpenWindow;
use tidegate::core::snapshot::Snapshot;

use crate::outbox::Fixture;
use crate::statements::{run, value};
use crate::{of_file, outbox_of_old_rows};

/// Six rows, of which the first four are settled and removed; answers the snapshot
/// between the second and the third row.
async fn four_removed() -> (Fixture, Snapshot) {
    let fixture = outbox_of_old_rows().await;
    fixture.publish().await;
    fixture.publish().await;
    let between = fixture.now().await;
    fixture.publish().await;
    fixture.publish().await;
    fixture.settle("p", &fixture.now().await).await;
    fixture.publish().await;
    fixture.publish().await;
    assert_eq!(fixture.batch(10).await.rows, 4);
    (fixture, between)
}

fn refused(answer: Result<tidegate::core::ports::Claim, StoreError>) -> String {
    match answer {
        Err(StoreError::Refused(text)) => text,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_position_from_before_a_removal_is_refused() {
    let (fixture, between) = four_removed().await;
    fixture.take("p").await;
    // Restored from a backup.
    fixture
        .run(&format!(
            "UPDATE tide.relay_position SET base = '{between}'"
        ))
        .await;
    let text = refused(fixture.store.claim(of_file("p")).await);
    for words in [
        "\"p\"",
        "\"events\"",
        "4 so far",
        "relay_accept_removed('p')",
    ] {
        assert!(text.contains(words), "no {words} in: {text}");
    }
    let again = refused(fixture.store.claim(of_file("p")).await);
    assert_eq!(again, text, "nothing was changed by the attempt");
    assert_eq!(fixture.batch(10).await.rows, 0, "it holds what is left");

    run(&fixture.pool, "SELECT tide.relay_accept_removed('p')").await;
    let (_, position) = fixture.take("p").await;
    assert_eq!(position.base, between, "it goes on from there");
}

#[tokio::test]
async fn a_position_from_the_very_beginning_is_refused_too() {
    let (fixture, _) = four_removed().await;
    // As it was between its first claim and its first save.
    fixture
        .run("UPDATE tide.relay_position SET base = '1:1:', last_number = 0")
        .await;
    let text = refused(fixture.store.claim(of_file("p")).await);
    assert!(text.contains("4 so far"), "{text}");
}

#[tokio::test]
async fn a_position_moved_back_within_what_is_kept_is_taken() {
    let (fixture, _) = four_removed().await;
    let kept = fixture.kept().await;
    let (epoch, mut position) = fixture.take("p").await;
    let head = fixture.now().await;
    position.base = Snapshot::nothing();
    position.last_number = position.last_number.next();
    position.open = vec![OpenWindow {
        number: position.last_number,
        snapshot: head,
    }];
    position.settled_id = kept[0] - 1;
    fixture
        .store
        .save_position("p", epoch, &position, &[])
        .await
        .expect("saved");
    let (epoch, taken) = fixture.take("p").await;
    assert_eq!(taken, position);
    position.settled_id = kept[0] - 2;
    fixture
        .store
        .save_position("p", epoch, &position, &[])
        .await
        .expect("saved");
    let text = refused(fixture.store.claim(of_file("p")).await);
    assert!(text.contains("retention has removed"), "{text}");
}

#[tokio::test]
async fn a_new_pipeline_begins_at_the_oldest_row_kept() {
    let (fixture, _) = four_removed().await;
    let kept = fixture.kept().await;
    for _ in 0..2 {
        // Again before it has settled anything, and in its first window.
        let (_, position) = fixture.take("new").await;
        let (_, rows) = fixture.open(&position.base).await;
        assert_eq!(rows, kept);
    }
    let (epoch, mut position) = fixture.take("new").await;
    position.last_number = position.last_number.next();
    position.open.push(OpenWindow {
        number: position.last_number,
        snapshot: fixture.now().await,
    });
    fixture
        .store
        .save_position("new", epoch, &position, &[])
        .await
        .expect("saved");
    assert_eq!(fixture.take("new").await.1, position);
    // One that begins anew under its old name.
    fixture
        .run(
            "UPDATE tide.relay_lease SET expires_at = '-infinity';
            SELECT tide.relay_forget('p')",
        )
        .await;
    let (_, position) = fixture.take("p").await;
    assert!(position.has_not_begun());
    let began: i64 = value(
        &fixture.pool,
        "SELECT began_after FROM tide.relay_position WHERE pipeline = 'p'",
    )
    .await;
    assert_eq!(began, 4);
}

/// Pipelines begin while batches run: whatever a batch removes, a pipeline that
/// began before it must have settled, and one that began after is not told of.
#[tokio::test(flavor = "multi_thread")]
async fn pipelines_that_begin_during_a_removal_are_neither_robbed_nor_refused() {
    let fixture = outbox_of_old_rows().await;
    for round in 0..30 {
        fixture
            .run("SELECT tide.outbox_publish('events', to_jsonb(n)) FROM generate_series(1, 50) n")
            .await;
        let all = fixture.now().await;
        fixture.settle("p", &all).await;
        let name = format!("new-{round}");
        let sweeps = async {
            let mut removed = 0;
            for _ in 0..12 {
                removed += fixture.batch(5).await.rows;
            }
            removed
        };
        let begin = async {
            tokio::time::sleep(std::time::Duration::from_millis(fastrand::u64(0..25))).await;
            let (_, position) = fixture.take(&name).await;
            fixture.open(&position.base).await.1
        };
        let (_, seen) = tokio::join!(sweeps, begin);
        let kept = fixture.kept().await;
        assert_eq!(kept, seen, "round {round}: rows it was to deliver are gone");
        // It is taken again, whatever was removed meanwhile.
        fixture.take(&name).await;
        fixture.settle(&name, &all).await;
        fixture.settle("p", &fixture.now().await).await;
        for _ in 0..12 {
            fixture.batch(5).await;
        }
        assert_eq!(fixture.kept().await, [0; 0]);
        fixture
            .run(&format!(
                "UPDATE tide.relay_lease SET expires_at = '-infinity';
                SELECT tide.relay_forget('{name}')"
            ))
            .await;
    }
}
