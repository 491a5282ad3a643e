//! `validate --diff` against a relay that runs.

use std::path::Path;

use serde_json::json;

use super::*;
use crate::relay::Relay;
use crate::scenario::{PATIENCE, until};

/// A relay without a stream to write to, on a database with one pipeline.
struct Running {
    folder: Folder,
    relay: Relay,
    address: String,
    text: String,
}

impl Running {
    async fn start() -> Self {
        let name = database::migrated_database().await;
        let pool = database::pool(&name);
        let define = "SELECT tide.relay_set_outbox('in-database', 'events', 'g', $1::jsonb)";
        sqlx::query("SELECT tide.outbox_create('events')")
            .execute(&pool)
            .await
            .expect("an outbox");
        let config = json!({
            "sink_type": "kinesis", "stream_name": "s", "tenant": "acme",
            "access_key_id": "hunter1", "secret_access_key": "hunter2",
        });
        sqlx::query(define)
            .bind(config.to_string())
            .execute(&pool)
            .await
            .expect("a pipeline");
        let url = database::server().url_as(database::OWNER, &name);
        let text = format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\n\
             [kinesis]\nendpoint_url = \"http://127.0.0.1:1\"\nregion = \"us-east-1\"\n\
             [[databases]]\nname = \"d\"\nurl = \"{url}\"\n\
             [[tenants]]\nname = \"acme\"\nweight = 2\n\
             [[pipelines]]\nname = \"in-file\"\noutbox = \"events\"\nstream_name = \"t\"\n\
             access_key_id = \"hunter3\"\nsecret_access_key = \"hunter4\"\n"
        );
        let folder = Folder::new();
        let file = folder.file("running.toml", &text);
        let file = file.to_str().expect("text").to_owned();
        let relay = Relay::start(&[("TIDEGATE_CONFIG".to_owned(), file)]).await;
        until("the definition is read", PATIENCE, || {
            relay.pipeline("in-database").is_object()
        })
        .await;
        let log = relay.log();
        let (_, rest) = log.split_once("admin=").expect("its address");
        let address = rest.split_whitespace().next().expect("its address");
        Self {
            address: format!("http://{address}"),
            folder,
            relay,
            text,
        }
    }

    fn diff(&self, new: &str) -> Said {
        let file = self.folder.file("new.toml", new);
        self.diff_of(&file)
    }

    fn diff_of(&self, file: &Path) -> Said {
        let file = file.to_str().expect("text");
        let address = self.address.as_str();
        let against = ["--diff", "--against", address, "--output", "json"];
        tidegate(
            &[&["validate", "--config", file], &against[..]].concat(),
            &[],
        )
    }
}

fn steps(said: &Said) -> Vec<(String, String)> {
    let json = said.json();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let step = |one: &Value| (text(&one["pipeline"]), text(&one["step"]));
    let pipelines = json["pipelines"].as_array().expect("a list");
    pipelines.iter().map(step).collect()
}

fn pairs(pairs: [(&str, &str); 2]) -> Vec<(String, String)> {
    let owned = |(one, two): (&str, &str)| (one.to_owned(), two.to_owned());
    pairs.map(owned).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_relay_tells_what_it_runs_by_but_no_secret() {
    let running = Running::start().await;
    let (status, body) = running.relay.get("/api/config").expect("an answer");
    assert_eq!(status, 200);
    assert!(!body.contains("hunter"), "{body}");
    assert!(!body.contains(database::OWNER), "the URL is shown: {body}");
    let told: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(told["settings"]["tenants"][0]["weight"], 2);
    assert_eq!(told["settings"]["limits"]["memory"], "256MiB");
    assert_eq!(told["catalogs"]["d"][0]["config"]["stream_name"], "s");

    let same = running.diff(&running.text);
    assert_eq!(
        (same.code, &same.json()["changes"]),
        (0, &json!(false)),
        "{}",
        same.out
    );

    let weighted = running.diff(&running.text.replace("weight = 2", "weight = 3"));
    let expected = pairs([("in-database", "change"), ("in-file", "keep")]);
    assert_eq!(steps(&weighted), expected);

    for secret in ["hunter3", "hunter4"] {
        let said = running.diff(&running.text.replace(secret, "another"));
        let expected = pairs([("in-database", "keep"), ("in-file", "restart")]);
        assert_eq!(steps(&said), expected, "{secret}");
    }

    let reconnected = running.diff(&running.text.replace("postgres://", "postgresql://"));
    let expected = pairs([("in-database", "restart"), ("in-file", "restart")]);
    assert_eq!(steps(&reconnected), expected);

    let refused = running.diff(&format!("{}[cluster]\nlease = \"9s\"\n", running.text));
    assert_eq!(refused.code, 78);
    assert_eq!(refused.json()["refused"][0]["key"], "cluster.lease");
}

#[test]
fn a_relay_that_is_not_there_is_named() {
    let folder = Folder::new();
    let file = folder.file("t.toml", "[admin]\nlisten = \"0.0.0.0:1\"\n");
    let file = file.to_str().expect("text");
    let environment = [("DATABASE_URL", "postgres://h/d")];
    let said = tidegate(&["validate", "--config", file, "--diff"], &environment);
    assert_eq!(said.code, 1);
    let expected = "the relay at 127.0.0.1:1 cannot be asked what it runs by";
    assert!(said.err.contains(expected), "{}", said.err);
}
