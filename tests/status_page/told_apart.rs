//! What has the same name, or is wrong with the same thing, is shown apart, and how far
//! the deleting of old rows has come: made-up answers in the place of the relay's.

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario};
use crate::scenes;

/// Has the page be told this instead of what the relay says.
fn tell(browser: &Browser, status: &Value) {
    browser.run(&format!(
        "const status = {status};
        const ask = window.fetch;
        window.fetch = (path, options) => String(path).includes('api/status')
            ? Promise.resolve(new Response(JSON.stringify(status)))
            : ask(path, options);"
    ));
}

/// What the relay says, when each of its pipelines writes to a stream of the same name in a
/// region of its own.
fn in_two_regions(relay: &Relay) -> Value {
    let mut status = relay.status();
    let mut streams = Vec::new();
    for (place, region) in ["eu-west-1", "us-east-1"].into_iter().enumerate() {
        let key = format!("{region}/events");
        let mut stream = status["streams"][0].clone();
        stream["name"] = json!("events");
        stream["key"] = json!(key);
        streams.push(stream);
        let pipeline = &mut status["pipelines"][place];
        pipeline["stream"] = json!("events");
        pipeline["stream_key"] = json!(key);
        pipeline["state"] = json!("waiting");
        pipeline["reason"] = json!(format!("reason of {region}"));
    }
    streams[1]["problem"] = json!("it is not there");
    // One call after another is no long call; one that hangs is.
    let shards = streams[0]["shards"].as_array_mut().expect("shards");
    for shard in shards.iter_mut().take(2) {
        shard["waits"] = json!({"waits_for": "kinesis", "seconds": 130.0});
        shard["records_utilisation"] = json!(0.0);
        shard["bytes_utilisation"] = json!(0.0);
    }
    streams[0]["shards"][0]["records_utilisation"] = json!(0.5);
    status["streams"] = json!(streams);
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_name_and_findings_about_one_thing_are_shown_apart() {
    scenario(3 * PATIENCE, async {
        let scene = scenes::idle().await;
        let browser = Browser::open(scene.relay.admin(), "").await;
        let mut status = in_two_regions(&scene.relay);
        // Two pipelines hold one outbox.
        let held =
            |name: &str| json!({"pipeline": name, "disabled": false, "held_seconds": 7200.0});
        let outbox = json!({
            "outbox": "orders", "retention_hours": 24, "oldest_row_seconds": 9000.0,
            "held_by": [held("orders"), held("invoices")],
        });
        let swept = json!({
            "outbox": "visits", "retention_hours": 24, "oldest_row_seconds": 864_000.0, "held_by": [],
            "sweep": {"deleted_rows": 1_200_000, "seconds": 40.0, "part": 0.25, "left_seconds": 120.0},
        });
        let retention = json!({
            "database": "default", "sweeps": true, "problem": null, "outboxes": [outbox, swept],
        });
        status["retention"] = json!([retention]);
        tell(&browser, &status);
        browser
            .wait("both streams are there", || {
                browser.texts("#stream-list h3") == ["us-east-1/events", "eu-west-1/events"]
            })
            .await;
        let shards = browser.run(
            "return [...document.querySelectorAll('article.stream')]
                .map((one) => one.querySelectorAll('tbody tr').length)",
        );
        assert_eq!(shards, json!([4, 4]));
        let waits = browser.texts("article.stream:last-of-type td.why");
        assert_eq!(waits[..2], ["kinesis", "kinesis, for 2 min"]);
        let findings = browser.texts("#findings > li");
        let count = |words: &[&str]| {
            let has_all = |one: &&String| words.iter().all(|word| one.contains(word));
            findings.iter().filter(has_all).count()
        };
        // Who waits for the stream that is well is not explained by the other's trouble.
        let explained = "Stream us-east-1/events takes no records";
        assert_eq!(count(&[explained]), 1, "{findings:#?}");
        assert_eq!(count(&["waits: reason of eu-west-1"]), 1, "{findings:#?}");
        assert_eq!(count(&["waits: reason of us-east-1"]), 0, "{findings:#?}");
        for name in ["orders", "invoices"] {
            let words = [
                "Outbox default/orders grows",
                &format!("pipeline {name} holds"),
            ];
            assert_eq!(count(&words), 1, "{name}: {findings:#?}");
        }
        let kept = browser.text("#database-rows td:last-child");
        assert_eq!(
            kept,
            "orders by orders (2 h) and orders by invoices (2 h); \
             old rows of visits: 25 % deleted (1,200,000, about 2 min left)"
        );
        scene.end().await;
    })
    .await;
}
