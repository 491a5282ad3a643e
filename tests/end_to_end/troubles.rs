//! Every kind of trouble a stream can be in: the status says which and what to
//! do, a metric alarms, the pipelines of other streams do not notice, and when it
//! is over everything goes on by itself.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::demo::consumer::StreamConsumer;
use tidegate::demo::faults::{Applied, CallFault, Operation};
use tidegate::demo::verdict::Committed;

use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::{STREAM, World};

/// The stream that is in no trouble.
const STEADY: &str = "steady";

/// A changed definition does not wait longer than this for a stream that takes
/// nothing.
const SHORT_GRACE: (&str, &str) = ("TIDEGATE__LIMITS__DRAIN_GRACE", "1s");

/// Two streams, a pipeline to each: `troubled` and `steady`.
struct Scene {
    world: World,
    relay: Relay,
    steady: StreamConsumer,
    steady_rows: u64,
    rows: Vec<Committed>,
}

impl Scene {
    /// Both work.
    async fn begin() -> Self {
        let world = World::new(2).await;
        let settings = world.settings(&[]);
        Self::with(world, settings, json!({})).await
    }

    async fn with(world: World, settings: Vec<(String, String)>, definition: Value) -> Self {
        world
            .emulator
            .create_stream(STEADY, 1)
            .await
            .expect("a stream");
        world.pipeline("troubled", definition).await;
        let own = json!({
            "stream_name": STEADY, "access_key_id": "AKIASTEADY", "secret_access_key": "x",
        });
        world.pipeline("steady", own).await;
        let client = world.emulator.client().await.expect("a client");
        let steady = StreamConsumer::start(client, STEADY, Duration::from_millis(30));
        let relay = Relay::start(&settings).await;
        let mut scene = Self {
            world,
            relay,
            steady,
            steady_rows: 0,
            rows: Vec::new(),
        };
        scene.publish().await;
        scene.world.wait_for(&scene.rows, PATIENCE).await;
        scene.relay.wait_for_state("troubled", "running").await;
        scene
    }

    /// Publishes some rows into both outboxes, and waits for those of the steady
    /// stream.
    async fn publish(&mut self) {
        let rows = self.world.publish_many("troubled", 30, 7, 10).await;
        self.rows.extend(rows);
        self.steady_rows += 30;
        self.world.publish_many("steady", 30, 7, 10).await;
        until("the steady stream has its rows", PATIENCE, || {
            self.steady.received() >= self.steady_rows
        })
        .await;
    }

    fn deny_puts(&self, fault: CallFault) {
        let faults = self.world.emulator.faults();
        faults.account().deny(STREAM, Operation::PutRecords, fault);
    }

    fn troubles(&self) -> Vec<Value> {
        let status = self.relay.status();
        let streams = status["streams"].as_array().expect("streams");
        let found = streams.iter().find(|entry| entry["name"] == STREAM);
        let found = found.and_then(|stream| stream["troubles"].as_array());
        found.cloned().unwrap_or_default()
    }

    fn metric(&self, stream: &str, kind: &str) -> f64 {
        let labels = [("stream", stream), ("kind", kind)];
        self.relay.metric("tidegate_stream_trouble", &labels)
    }

    /// The stream is in this trouble, everything says so, and nobody else is.
    async fn is_in(&mut self, kind: &str, says: &[&str]) {
        self.publish().await;
        until(kind, PATIENCE, || self.metric(STREAM, kind) == 1.0).await;
        until("the pipeline waits", PATIENCE, || {
            let pipeline = self.relay.pipeline("troubled");
            let reason = pipeline["reason"].as_str().unwrap_or_default();
            pipeline["state"] == "waiting" && reason.contains(kind)
        })
        .await;
        let reason = self.relay.pipeline("troubled")["reason"].to_string();
        for words in says {
            assert!(reason.contains(words), "{kind}: no {words:?} in {reason}");
        }
        let troubles = self.troubles();
        assert!(
            troubles.iter().any(|trouble| trouble["kind"] == kind),
            "{kind}: {troubles:?}"
        );
        let labels = [("stream", STREAM), ("kind", kind)];
        let failures = self
            .relay
            .metric("tidegate_stream_call_failures_total", &labels);
        assert!(failures > 0.0);
        self.publish().await;
        assert_eq!(self.relay.state("steady"), "running", "during {kind}");
        assert_eq!(self.metric(STEADY, kind), 0.0);
    }

    /// Everything goes on by itself, and nothing is lost or out of order.
    async fn recovers_from(&mut self, kind: &str) {
        self.relay.wait_for_state("troubled", "running").await;
        until("no trouble is left", PATIENCE, || {
            self.troubles().is_empty() && self.metric(STREAM, kind) == 0.0
        })
        .await;
        let verdict = self.world.judge(&self.rows).await;
        assert!(verdict.is_clean(), "{kind}: {verdict:#?}");
    }

    async fn end(self) {
        assert_eq!(
            self.steady.received(),
            self.steady_rows,
            "nothing came twice"
        );
        assert_eq!(self.relay.terminate().await, 0);
    }
}

/// A trouble of puts that a code or another end of the call stands for.
async fn is_lived_through(scene: &mut Scene, kind: &str, fault: CallFault, says: &[&str]) {
    scene.deny_puts(fault);
    scene.is_in(kind, says).await;
    scene.world.emulator.faults().heal();
    scene.recovers_from(kind).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn access_denied_names_the_permission_and_the_stream() {
    scenario(2 * PATIENCE, async {
        let mut scene = Scene::begin().await;
        let says = ["kinesis:PutRecords", STREAM, "IAM policy"];
        let fault = CallFault::code("AccessDeniedException");
        is_lived_through(&mut scene, "access_denied", fault, &says).await;
        scene.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_trouble_with_the_streams_key_is_told_apart() {
    let kinds = [
        (
            "KMSAccessDeniedException",
            "kms_denied",
            "kms:GenerateDataKey",
        ),
        ("KMSDisabledException", "kms_disabled", "enable"),
        ("KMSInvalidStateException", "kms_invalid_state", "Enabled"),
        ("KMSNotFoundException", "kms_not_found", "key that exists"),
        ("KMSOptInRequired", "kms_opt_in", "AWS KMS"),
    ];
    scenario(3 * PATIENCE, async {
        let mut scene = Scene::begin().await;
        for (code, kind, says) in kinds {
            is_lived_through(&mut scene, kind, CallFault::code(code), &[says, STREAM]).await;
        }
        scene.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_key_is_a_throttle_and_trouble_only_when_it_lasts() {
    scenario(2 * PATIENCE, async {
        let mut scene = Scene::begin().await;
        let fault = CallFault::code("KMSThrottlingException");
        is_lived_through(&mut scene, "throttled", fault, &[]).await;
        for kind in ["kms_denied", "kms_disabled", "kms_invalid_state"] {
            let labels = [("stream", STREAM), ("kind", kind)];
            let failures = scene
                .relay
                .metric("tidegate_stream_call_failures_total", &labels);
            assert_eq!(failures, 0.0, "{kind}");
        }
        scene.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_not_reached_or_fails_is_told_apart() {
    scenario(3 * PATIENCE, async {
        let mut scene = Scene::begin().await;
        let reset = CallFault::Reset {
            applied: Applied::Never,
        };
        is_lived_through(&mut scene, "network", reset, &["check DNS"]).await;
        let failure = CallFault::internal_failure(Applied::Never);
        is_lived_through(&mut scene, "service_failure", failure, &["InternalFailure"]).await;
        scene.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_there_is_waited_for_while_others_flow() {
    scenario(2 * PATIENCE, async {
        let mut scene = Scene::begin().await;
        scene.world.emulator.faults().hide_stream(STREAM);
        let says = ["stream_name", STREAM];
        scene.is_in("stream_missing", &says).await;
        scene.world.emulator.faults().show_stream(STREAM);
        scene.recovers_from("stream_missing").await;
        scene.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_measured() {
    scenario(2 * PATIENCE, async {
        let mut scene = Scene::begin().await;
        let faults = scene.world.emulator.faults();
        // The service's clock is an hour ahead: ours is behind.
        faults.account().set_clock(3600);
        let fault = CallFault::code("RequestExpired");
        scene.deny_puts(fault);
        scene
            .is_in("clock_skew", &["s behind the service's", "NTP"])
            .await;
        let reason = scene.relay.pipeline("troubled")["reason"].to_string();
        let seconds: Vec<u64> = reason
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|digits| digits.parse().ok())
            .collect();
        assert!(
            seconds
                .iter()
                .any(|seconds| (3590..=3610).contains(seconds)),
            "{reason}"
        );
        faults.heal();
        scene.recovers_from("clock_skew").await;
        scene.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_control_plane_delays_only_its_stream_and_passes() {
    scenario(2 * PATIENCE, async {
        let mut scene = Scene::begin().await;
        let faults = scene.world.emulator.faults();
        let fault = CallFault::code("LimitExceededException");
        let account = faults.account();
        scene
            .world
            .emulator
            .create_stream("late", 1)
            .await
            .expect("a stream");
        account.deny("late", Operation::DescribeStreamSummary, fault);
        scene
            .world
            .pipeline("late", json!({"stream_name": "late"}))
            .await;
        scene.world.publish_many("late", 30, 7, 10).await;
        until("the throttle is shown", PATIENCE, || {
            scene.metric("late", "throttled") == 1.0 && scene.relay.state("late") == "waiting"
        })
        .await;
        scene.publish().await;
        assert_eq!(scene.relay.state("troubled"), "running");
        faults.heal();
        scene.relay.wait_for_state("late", "running").await;
        until("it has passed", PATIENCE, || {
            let labels = [("pipeline", "late")];
            let delivered = scene.relay.metric("tidegate_rows_delivered_total", &labels);
            scene.metric("late", "throttled") == 0.0 && delivered == 30.0
        })
        .await;
        scene.world.sql("SELECT tide.relay_delete('late')").await;
        until("its series are gone", PATIENCE, || {
            let (_, metrics) = scene.relay.get("/metrics").expect("metrics");
            !metrics.contains(r#"stream="late""#)
        })
        .await;
        scene.end().await;
    })
    .await;
}

// === Credentials ===

/// What a `credential_process` prints.
fn write_credentials(path: &Path, access_key_id: &str) {
    let credentials = json!({
        "Version": 1, "AccessKeyId": access_key_id, "SecretAccessKey": "x", "SessionToken": "t",
        "Expiration": "2999-01-01T00:00:00Z",
    });
    // Whoever reads meanwhile finds the old one or the new one.
    let new = path.with_extension("new");
    fs::write(&new, credentials.to_string()).expect("written");
    fs::rename(&new, path).expect("renamed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_early_is_replaced_without_a_restart() {
    scenario(2 * PATIENCE, async {
        let folder = tempfile::tempdir().expect("a folder");
        let credentials = folder.path().join("credentials.json");
        write_credentials(&credentials, "AKIAFIRST");
        let profile = folder.path().join("config");
        let process = format!(
            "[default]\nregion = us-east-1\ncredential_process = cat {}\n",
            credentials.display()
        );
        fs::write(&profile, process).expect("written");
        let world = World::new(2).await;
        let profile = profile.display().to_string();
        let mut settings = world.settings(&[("AWS_CONFIG_FILE", &profile)]);
        settings.retain(|(name, _)| name != "AWS_ACCESS_KEY_ID" && name != "AWS_SECRET_ACCESS_KEY");
        let mut scene = Scene::with(world, settings, json!({})).await;

        let faults = scene.world.emulator.faults();
        faults
            .account()
            .refuse_key("AKIAFIRST", "ExpiredTokenException");
        scene.is_in("credentials_expired", &["renew them"]).await;
        write_credentials(&credentials, "AKIASECOND");
        scene.recovers_from("credentials_expired").await;
        scene.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_that_is_replaced_is_read_again_without_a_restart() {
    scenario(2 * PATIENCE, async {
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("key");
        fs::write(&key, "AKIAFIRST\n").expect("written");
        let world = World::new(2).await;
        let settings = world.settings(&[SHORT_GRACE]);
        let definition = json!({
            "access_key_id": format!("${{file:{}}}", key.display()), "secret_access_key": "x",
        });
        let mut scene = Scene::with(world, settings, definition).await;

        let faults = scene.world.emulator.faults();
        let account = faults.account();
        account.refuse_key("AKIAFIRST", "UnrecognizedClientException");
        scene
            .is_in("credentials_refused", &["replace the key"])
            .await;
        fs::write(&key, "AKIASECOND\n").expect("written");
        scene.recovers_from("credentials_refused").await;
        scene.end().await;
    })
    .await;
}
