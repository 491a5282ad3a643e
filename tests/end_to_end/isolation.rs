//! A bad pipeline or a missing stream harms only what it names; limits that were
//! asked for are obeyed.

use std::time::Duration;

use serde_json::json;
use tidegate::demo::load::OutboxLoad;
use tidegate::demo::tally::LoggedCall;

use crate::scenario::{PATIENCE, scenario, scenario_alone, until};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_pipeline_and_a_missing_stream_harm_only_themselves() {
    scenario(2 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("good", json!({})).await;
        let secret = json!({"access_key_id": "${env:NOT_THERE}", "secret_access_key": "x"});
        world.pipeline("invalid", secret).await;
        let nowhere = json!({"stream_name": "not-there"});
        world.pipeline("nowhere", nowhere).await;
        let relay = world.relay().await;
        let load = world.load(vec![OutboxLoad::new("good")], 19).await;
        load.wait_until_published(200, PATIENCE)
            .await
            .expect("rows");
        world.settle(load).await;
        assert_eq!(relay.state("good"), "running");
        relay.wait_for_state("invalid", "invalid").await;
        let reason = relay.pipeline("invalid")["reason"].to_string();
        assert!(reason.contains("NOT_THERE"), "{reason}");
        relay.wait_for_state("nowhere", "waiting").await;
        let reason = relay.pipeline("nowhere")["reason"].to_string();
        assert!(reason.contains("not-there"), "{reason}");
        assert_eq!(relay.get("/readyz").expect("an answer").0, 200);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// The most records in any second.
fn busiest_second(calls: &[LoggedCall]) -> usize {
    let records_from = |first: &LoggedCall| {
        let in_second = calls
            .iter()
            .filter(|call| call.at >= first.at && call.at - first.at < Duration::from_secs(1));
        in_second.map(|call| call.records.len()).sum()
    };
    calls.iter().map(records_from).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_obeyed() {
    scenario_alone(2 * PATIENCE, async {
        let world = World::new(2).await;
        let limit = json!({"rate_limit": {
            "enabled": true, "max_messages_per_second": 100, "burst_size": 20,
        }});
        world.pipeline("slow", limit).await;
        world.emulator.tally().log_calls(10_000, false);
        let rows = world.publish_many("slow", 600, 100, 10).await;
        let relay = world.relay().await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        let mut calls = world.emulator.tally().logged_calls();
        calls.retain(|call| !call.records.is_empty());
        let (first, last) = (&calls[0], &calls[calls.len() - 1]);
        let took = (last.at - first.at).as_secs_f64();
        let rate = 600.0 / took;
        eprintln!(
            "{rate:.1} rows/s, {} at most in a second",
            busiest_second(&calls)
        );
        assert!((90.0..105.0).contains(&rate), "{rate:.1} rows/s");
        assert!(busiest_second(&calls) <= 140, "{}", busiest_second(&calls));
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_under_two_credentials_keeps_its_series_while_it_is_used() {
    scenario(2 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("one", json!({})).await;
        let other = json!({"access_key_id": "AKIDOTHER", "secret_access_key": "x"});
        world.pipeline("two", other).await;
        let faults = [("TIDEGATE_TEST_FAULTS", "stream_router.Batch=2:panic")];
        let relay = world.relay_with(&faults).await;
        let accepted = || relay.metric("tidegate_shard_records_accepted_total", &[]);
        let rows = world.publish_many("two", 50, 10, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        // The router of the one fails, and its writers end with it.
        let rows = world.publish_many("one", 50, 10, 10).await;
        until("a panic", PATIENCE, || relay.panics("stream_router") >= 1.0).await;
        world.wait_for(&rows, PATIENCE).await;
        // What the other one sends is counted on.
        let before = accepted();
        let rows = world.publish_many("two", 50, 10, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        until("50 more records", PATIENCE, || accepted() >= before + 50.0).await;
        // So it is when the pipelines of the one are gone.
        world.sql("SELECT tide.relay_delete('one')").await;
        until("it to end", PATIENCE, || {
            let pipelines = relay.status()["pipelines"].clone();
            pipelines.as_array().is_some_and(|all| all.len() == 1)
        })
        .await;
        let before = accepted();
        let rows = world.publish_many("two", 50, 10, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        until("50 more records", PATIENCE, || accepted() >= before + 50.0).await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
