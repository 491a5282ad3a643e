//! Who holds rows: every reader, whether it runs or not; and that this is seen.

use serde_json::json;
use tidegate::core::ports::{OutboxStore, PipelineName, StoreError};
use tidegate::core::retention::{BatchDone, FileReader, RetentionStore, Survey};

use crate::statements::{assert_refused, json_value, run};
use crate::{TURN, outbox_of_old_rows};

const DEFINE: &str = r#"SELECT tide.relay_set_outbox('q', 'events', '{"sink_type": "kinesis", "stream_name": "s"}')"#;

#[tokio::test]
async fn a_disabled_pipeline_holds_what_it_has_not_settled_and_is_named() {
    let fixture = outbox_of_old_rows().await;
    for _ in 0..3 {
        fixture.publish().await;
    }
    fixture.settle("p", &fixture.now().await).await;
    fixture
        .run(&format!("{DEFINE}; SELECT tide.relay_disable('q')"))
        .await;
    assert_eq!(fixture.batch(10).await, BatchDone::default());

    let status = json_value(&fixture.pool, "tide.outbox_status('events')").await;
    assert_eq!(
        status["name"], "events",
        "what it said before is still there"
    );
    let retention = &status["retention"];
    assert_eq!(retention["removed_rows"], 0);
    assert_eq!(retention["unread"], false);
    let [hold] = &retention["held_by"].as_array().expect("a list")[..] else {
        panic!("{retention}");
    };
    let told = [
        &hold["pipeline"],
        &hold["defined_in"],
        &hold["enabled"],
        &hold["rows"],
        &hold["rows_at_least"],
    ];
    assert_eq!(
        told,
        [
            &json!("q"),
            &json!("database"),
            &json!(false),
            &json!(3),
            &json!(false)
        ]
    );
    assert!(
        hold["oldest_age_seconds"].as_f64() >= Some(7200.0),
        "{hold}"
    );
    assert!(hold["held_since"].is_string(), "{hold}");

    let surveyed = fixture.surveyed().await;
    assert!(surveyed.is_due());
    assert_eq!(surveyed.holds.len(), 1, "{surveyed:?}");
    assert_eq!(
        (&*surveyed.holds[0].pipeline, surveyed.holds[0].disabled),
        ("q", true)
    );
    let held_for = surveyed.holds[0].held_for.as_secs();
    assert!((3600..3700).contains(&held_for), "{held_for}");

    // It settles the first two: those go, and it holds the third.
    fixture.run("SELECT tide.relay_delete('q')").await;
    let third = fixture.kept().await[2];
    fixture.settle("q", &fixture.now().await).await;
    fixture.publish().await;
    assert_eq!(fixture.batch(2).await.rows, 2);
    assert_eq!(fixture.kept().await[0], third);
}

#[tokio::test]
async fn a_definition_without_a_position_holds_everything() {
    let fixture = outbox_of_old_rows().await;
    fixture.publish().await;
    fixture.settle("p", &fixture.now().await).await;
    fixture.run(DEFINE).await;
    assert_eq!(fixture.batch(10).await, BatchDone::default());
    fixture.run("SELECT tide.relay_delete('q')").await;
    assert_eq!(fixture.batch(10).await.rows, 1);
}

#[tokio::test]
async fn a_pipeline_of_a_file_holds_rows_before_its_first_position() {
    let fixture = outbox_of_old_rows().await;
    fixture.publish().await;
    fixture.settle("p", &fixture.now().await).await;
    let known: [PipelineName; 1] = ["p".into()];
    let new: [PipelineName; 2] = ["p".into(), "of-file".into()];
    let batch = |names: Vec<PipelineName>| {
        let (store, outbox) = (fixture.store.clone(), fixture.outbox);
        async move { store.remove_batch(outbox, &names, 10).await.expect("done") }
    };
    assert_eq!(batch(new.to_vec()).await, BatchDone::default());
    let reader = |pipeline: &str| FileReader {
        pipeline: pipeline.into(),
        outbox: "events".into(),
    };
    let readers = [reader("p"), reader("of-file")];
    let survey = fixture.store.survey("node", TURN, &readers).await;
    let Ok(Survey::Ours(outboxes)) = survey else {
        panic!("{survey:?}");
    };
    let holds: Vec<&str> = outboxes[0]
        .holds
        .iter()
        .map(|hold| &*hold.pipeline)
        .collect();
    assert_eq!(holds, ["of-file"]);
    assert_eq!(batch(known.to_vec()).await.rows, 1);
}

#[tokio::test]
async fn open_windows_hold_their_rows() {
    let fixture = outbox_of_old_rows().await;
    let (_, mut position) = fixture.take("p").await;
    fixture.publish().await;
    fixture.publish().await;
    let snapshot = fixture.now().await;
    let (epoch, _) = fixture.take("p").await;
    position.last_number = position.last_number.next();
    position.open.push(tidegate::core::position::OpenWindow {
        number: position.last_number,
        snapshot: snapshot.clone(),
    });
    position.settled_id = i64::MAX;
    fixture
        .store
        .save_position("p", epoch, &position, &[])
        .await
        .expect("saved");
    assert_eq!(fixture.batch(10).await, BatchDone::default());
    position.base = snapshot;
    position.open.clear();
    fixture
        .store
        .save_position("p", epoch, &position, &[])
        .await
        .expect("saved");
    assert_eq!(fixture.batch(10).await.rows, 2);
}

#[tokio::test]
async fn a_pipeline_that_left_its_file_is_forgotten_on_demand() {
    let fixture = outbox_of_old_rows().await;
    fixture.publish().await;
    fixture.settle("p", &fixture.now().await).await;
    let (epoch, _) = fixture.take("gone").await;
    assert_eq!(fixture.batch(10).await, BatchDone::default());
    let forget = "SELECT tide.relay_forget('gone')";
    assert_refused(&fixture.pool, forget, "55006", &["run by the relay node"]).await;
    fixture
        .store
        .release("gone", "node", epoch)
        .await
        .expect("released");
    run(&fixture.pool, forget).await;
    assert_eq!(fixture.batch(10).await.rows, 1);
    assert_refused(&fixture.pool, forget, "42704", &["no position"]).await;
    fixture.run(DEFINE).await;
    let defined = "SELECT tide.relay_forget('q')";
    assert_refused(&fixture.pool, defined, "55006", &["tide.relay_delete"]).await;
}

#[tokio::test]
async fn an_outbox_that_is_dropped_takes_its_sweep_along() {
    let fixture = outbox_of_old_rows().await;
    fixture.publish().await;
    fixture.settle("p", &fixture.now().await).await;
    assert_eq!(fixture.batch(10).await.rows, 1);
    fixture
        .run(
            "UPDATE tide.relay_lease SET expires_at = '-infinity';
            SELECT tide.outbox_drop('events')",
        )
        .await;
    assert_eq!(fixture.batch(10).await, BatchDone::default());
    let left: i64 =
        crate::statements::value(&fixture.pool, "SELECT count(*) FROM tide.outbox_retention").await;
    assert_eq!(left, 0);
    let claim = fixture.store.claim(crate::of_file("p")).await;
    assert!(matches!(claim, Err(StoreError::Refused(_))), "{claim:?}");
}
