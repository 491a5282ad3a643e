//! Events show in the text.

use super::*;

fn metrics() -> Metrics {
    Metrics::new(Registry::new()).expect("fresh names")
}

#[track_caller]
fn shows(metrics: &Metrics, lines: &[&str]) {
    let text = metrics.render().expect("text");
    for line in lines {
        assert!(
            text.lines().any(|shown| shown == *line),
            "no line {line} in\n{text}"
        );
    }
}

#[test]
fn a_pipelines_events_add_up() {
    let metrics = metrics();
    let pipeline = metrics.pipeline(["d", "p", "t", "s"]);
    pipeline.rows_read(5, 500);
    pipeline.delivered(3, 300);
    metrics.pipeline(["d", "p", "t", "s"]).delivered(1, 100);
    pipeline.retried(2, RetryReason::Throttled);
    pipeline.throttled(2);
    pipeline.acks().observe(0.02);
    pipeline.in_flight(1, 100);
    pipeline.lag(7, Duration::from_millis(1500));
    pipeline.windows_open(2);
    pipeline.deferred_rows(9);
    pipeline.row_blocked();
    pipeline.state(&PipelineState::Running);
    shows(
        &metrics,
        &[
            r#"tidegate_rows_read_total{database="d",pipeline="p",stream="s",tenant="t"} 5"#,
            r#"tidegate_bytes_read_total{database="d",pipeline="p",stream="s",tenant="t"} 500"#,
            r#"tidegate_rows_delivered_total{database="d",pipeline="p",stream="s",tenant="t"} 4"#,
            r#"tidegate_bytes_delivered_total{database="d",pipeline="p",stream="s",tenant="t"} 400"#,
            r#"tidegate_records_retried_total{database="d",pipeline="p",reason="throttled",stream="s",tenant="t"} 2"#,
            r#"tidegate_records_throttled_total{database="d",pipeline="p",stream="s",tenant="t"} 2"#,
            r#"tidegate_commit_to_ack_seconds_bucket{database="d",pipeline="p",stream="s",tenant="t",le="0.01"} 0"#,
            r#"tidegate_commit_to_ack_seconds_bucket{database="d",pipeline="p",stream="s",tenant="t",le="0.025"} 1"#,
            r#"tidegate_in_flight_rows{database="d",pipeline="p",stream="s",tenant="t"} 1"#,
            r#"tidegate_in_flight_bytes{database="d",pipeline="p",stream="s",tenant="t"} 100"#,
            r#"tidegate_lag_rows{database="d",pipeline="p",stream="s",tenant="t"} 7"#,
            r#"tidegate_lag_oldest_seconds{database="d",pipeline="p",stream="s",tenant="t"} 1.5"#,
            r#"tidegate_windows_open{database="d",pipeline="p",stream="s",tenant="t"} 2"#,
            r#"tidegate_deferred_rows{database="d",pipeline="p",stream="s",tenant="t"} 9"#,
            r#"tidegate_rows_blocked_total{database="d",pipeline="p",stream="s",tenant="t"} 1"#,
            r#"tidegate_pipeline_state{database="d",pipeline="p",state="running",stream="s",tenant="t"} 1"#,
            r#"tidegate_pipeline_state{database="d",pipeline="p",state="starting",stream="s",tenant="t"} 0"#,
        ],
    );
}

/// Names of pipelines are unique in their database only.
#[test]
fn pipelines_of_one_name_in_two_databases_are_two() {
    let metrics = metrics();
    let [stuck, healthy] = ["a", "b"].map(|database| [database, "p", "t", "s"]);
    metrics.pipeline(stuck).lag(7, Duration::from_secs(900));
    metrics.pipeline(healthy).lag(0, Duration::ZERO);
    metrics.pipeline(healthy).delivered(3, 300);
    let of_stuck = [
        r#"tidegate_lag_rows{database="a",pipeline="p",stream="s",tenant="t"} 7"#,
        r#"tidegate_lag_oldest_seconds{database="a",pipeline="p",stream="s",tenant="t"} 900"#,
        r#"tidegate_rows_delivered_total{database="a",pipeline="p",stream="s",tenant="t"} 0"#,
    ];
    shows(&metrics, &of_stuck);
    let standby = PipelineState::Standby { owner: "o".into() };
    metrics.pipeline_state(healthy, &standby);
    shows(&metrics, &of_stuck);
    metrics.remove_pipeline(healthy);
    shows(&metrics, &of_stuck);
}

#[test]
fn a_shards_events_add_up() {
    let metrics = metrics();
    let shard = metrics.shard("s", "shardId-0");
    shard.call(CallOutcome::Partial, Duration::from_millis(8));
    shard.offered(10, 1000);
    shard.accepted(7, 700);
    shard.throttled(3);
    shard.utilisation(0.5, 0.25);
    shard.budget_factor(0.9);
    shard.share(0.25, 0.5);
    shard.queued(4, 400);
    shard.sequence_regressed();
    shows(
        &metrics,
        &[
            r#"tidegate_put_calls_total{outcome="partial",shard="shardId-0",stream="s"} 1"#,
            r#"tidegate_put_calls_total{outcome="stored",shard="shardId-0",stream="s"} 0"#,
            r#"tidegate_put_call_seconds_count{shard="shardId-0",stream="s"} 1"#,
            r#"tidegate_shard_records_offered_total{shard="shardId-0",stream="s"} 10"#,
            r#"tidegate_shard_bytes_offered_total{shard="shardId-0",stream="s"} 1000"#,
            r#"tidegate_shard_records_accepted_total{shard="shardId-0",stream="s"} 7"#,
            r#"tidegate_shard_bytes_accepted_total{shard="shardId-0",stream="s"} 700"#,
            r#"tidegate_shard_records_throttled_total{shard="shardId-0",stream="s"} 3"#,
            r#"tidegate_shard_budget_utilisation_ratio{resource="records",shard="shardId-0",stream="s"} 0.5"#,
            r#"tidegate_shard_budget_utilisation_ratio{resource="bytes",shard="shardId-0",stream="s"} 0.25"#,
            r#"tidegate_shard_budget_factor_ratio{shard="shardId-0",stream="s"} 0.9"#,
            r#"tidegate_shard_share_ratio{resource="records",shard="shardId-0",stream="s"} 0.25"#,
            r#"tidegate_shard_share_ratio{resource="bytes",shard="shardId-0",stream="s"} 0.5"#,
            r#"tidegate_shard_queued_rows{shard="shardId-0",stream="s"} 4"#,
            r#"tidegate_shard_queued_bytes{shard="shardId-0",stream="s"} 400"#,
            r#"tidegate_sequence_regressions_total{shard="shardId-0",stream="s"} 1"#,
        ],
    );
}

#[test]
fn the_processs_events_add_up() {
    let metrics = metrics();
    metrics.actor_restarted("shard_writer", "panic");
    metrics.invariant_violated(Invariant::Loss);
    metrics.position_write(PositionWrite::Stale);
    metrics.lease_event(LeaseEvent::Lost);
    metrics.database_up("default", true);
    metrics.database_query("default", "probe", Duration::from_millis(2), false);
    let version = env!("CARGO_PKG_VERSION");
    shows(
        &metrics,
        &[
            &format!(r#"tidegate_build_info{{version="{version}"}} 1"#),
            r#"tidegate_actor_restarts_total{actor="shard_writer",cause="panic"} 1"#,
            r#"tidegate_invariant_violations_total{id="P-LOSS"} 1"#,
            r#"tidegate_position_writes_total{outcome="stale"} 1"#,
            r#"tidegate_lease_events_total{event="lost"} 1"#,
            r#"tidegate_database_up{database="default"} 1"#,
            r#"tidegate_database_query_seconds_bucket{database="default",query="probe",le="0.0025"} 1"#,
            r#"tidegate_database_query_failures_total{database="default",query="probe"} 1"#,
        ],
    );
}

#[test]
fn removing_ends_every_series() {
    let metrics = metrics();
    let before = metrics.render().expect("text");
    let pipeline = metrics.pipeline(["d", "p", "t", "s"]);
    let shard = metrics.shard("s", "shardId-0");
    assert_ne!(metrics.render().expect("text"), before);
    metrics.remove_pipeline(["d", "p", "t", "s"]);
    metrics.remove_shard("s", "shardId-0");
    metrics.remove_tenant("t");
    pipeline.delivered(1, 1);
    shard.throttled(1);
    assert_eq!(metrics.render().expect("text"), before);
    metrics.remove_shard("s", "shardId-0");
}

#[test]
fn only_the_owner_shows_a_backlog() {
    let metrics = metrics();
    let labels = ["d", "p", "t", "s"];
    let shown = |family: &str| {
        let text = metrics.render().expect("text");
        text.lines().any(|line| line.starts_with(family))
    };
    let others = [
        PipelineState::Standby { owner: "o".into() },
        PipelineState::Stopped,
        PipelineState::Paused { reason: "r".into() },
        PipelineState::Waiting { reason: "r".into() },
        PipelineState::Invalid { reason: "r".into() },
    ];
    for state in others {
        metrics
            .pipeline(["d", "p", "t", "s"])
            .lag(7, Duration::ZERO);
        metrics.pipeline_state(labels, &PipelineState::Starting);
        assert!(shown("tidegate_lag_rows{"));
        metrics.pipeline_state(labels, &state);
        for family in ["lag_rows", "lag_oldest_seconds", "dead_letters_open"] {
            assert!(
                !shown(&format!("tidegate_{family}{{")),
                "{state:?} {family}"
            );
        }
        assert!(shown("tidegate_rows_read_total{"), "{state:?}");
    }
}

#[test]
fn names_are_taken_once_per_registry() {
    let registry = Registry::new();
    let first = Metrics::new(registry.clone());
    let second = Metrics::new(registry);
    assert!(first.is_ok() && second.is_err());
}
