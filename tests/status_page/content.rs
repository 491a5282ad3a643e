//! What the page says is what `/api/status` says, and what it makes of it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::browser::Browser;
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario};
use crate::scenes::{self, MARKUP};

/// Every pipeline that the page shows, as it shows it.
const SHOWN: &str = "
    const text = (row, selector) => row.querySelector(selector).textContent;
    return [...document.querySelectorAll('#pipeline-rows tr')].map((row) => ({
        name: text(row, '.name'), outbox: text(row, 'th .under'),
        tenant: row.cells[1].textContent, stream: row.cells[2].textContent,
        state: text(row, '.state'), reason: text(row, '.reason'),
        letters: row.cells[7].textContent, owner: row.cells[8].firstChild.textContent,
        epoch: row.cells[8].lastChild.textContent,
    }));";

/// The same of a status.
fn expected(status: &Value) -> Vec<Value> {
    let pipelines = status["pipelines"].as_array().expect("pipelines").iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let shown = |one: &Value| {
        let owns = !one["epoch"].is_null();
        let row = one["row_id"].as_i64().map(|id| format!("row {id}: "));
        let letters = match one["dead_letters_open"].as_u64() {
            Some(0) => "-".to_owned(),
            // Only who holds a pipeline counts them.
            Some(_) if !owns => "-".to_owned(),
            other => other.expect("a number").to_string(),
        };
        json!({
            "name": format!("{}/{}", text(&one["database"]), text(&one["name"])),
            "outbox": format!("outbox {}", text(&one["outbox"])),
            "tenant": text(&one["tenant"]), "stream": text(&one["stream"]),
            "state": text(&one["state"]),
            "reason": row.unwrap_or_default() + &text(&one["reason"]),
            "letters": letters,
            "owner": if owns { text(&status["node"]) } else { "nobody".to_owned() },
            "epoch": if owns { format!("epoch {}", one["epoch"]) } else { String::new() },
        })
    };
    let mut all: Vec<Value> = pipelines.map(shown).collect();
    all.sort_by_key(|one| text(&one["name"]));
    all
}

/// Asserts, within some time, that the page shows the pipelines of the status.
async fn shows_the_status(browser: &Browser, relay: &Relay) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let expected = expected(&relay.status());
        let mut shown: Vec<Value> = serde_json::from_value(browser.run(SHOWN)).expect("rows");
        shown.sort_by_key(|one| one["name"].to_string());
        if shown == expected {
            return;
        }
        if Instant::now() > deadline {
            assert_eq!(shown, expected, "the page and /api/status");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The place of the first finding that has all these words.
#[track_caller]
fn finding(browser: &Browser, words: &[&str]) -> usize {
    let findings = browser.texts("#findings > li");
    let has_all = |one: &&String| words.iter().all(|word| one.contains(word));
    let place = findings.iter().position(|one| has_all(&one));
    place.unwrap_or_else(|| panic!("no finding has {words:?}: {findings:#?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_with_nothing_to_do_has_nothing_wrong() {
    scenario(3 * PATIENCE, async {
        let scene = scenes::idle().await;
        let browser = Browser::open(scene.relay.admin(), "").await;
        shows_the_status(&browser, &scene.relay).await;
        assert_eq!(browser.text("#headline"), "Nothing is wrong: rows flow");
        assert_eq!(browser.texts("#findings > li"), Vec::<String>::new());
        assert_eq!(browser.texts("#figures dd")[0], "3 of 3");
        let status = scene.relay.status();
        let shards: Vec<String> = status["streams"][0]["shards"]
            .as_array()
            .expect("shards")
            .iter()
            .map(|shard| shard["id"].as_str().expect("an id").to_owned())
            .collect();
        assert_eq!(browser.texts("table.shards tbody th"), shards);
        assert_eq!(shards.len(), 4);
        // A node joins with its first beat, and is live with its second.
        browser
            .wait("the node is live", || {
                browser.text("#node-rows").contains("live")
            })
            .await;
        let node = browser.texts("#node-rows tr:first-child > *");
        assert_eq!(
            node,
            [
                status["node"].as_str().expect("a name"),
                "default",
                "live, this one",
                "-",
                "3 (part: 3)",
                "acme and globex"
            ]
        );
        assert_eq!(
            browser.texts("#tenant-rows th"),
            ["acme", "globex"],
            "{:#}",
            status["tenants"]
        );
        let server = browser.text("#database-rows tr");
        assert!(server.contains("PostgreSQL"), "{server}");
        scene.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_relay_shows_its_rates() {
    scenario(3 * PATIENCE, async {
        let scene = scenes::busy().await;
        let browser = Browser::open(scene.relay.admin(), "").await;
        shows_the_status(&browser, &scene.relay).await;
        browser
            .wait("every pipeline has a rate and a line", || {
                let rates = browser.texts("#pipeline-rows .rate");
                let lines = browser.run(
                    "return [...document.querySelectorAll('#pipeline-rows .spark-line')]
                        .filter((line) => line.getAttribute('d').includes('L')).length",
                );
                rates.len() == 5
                    && rates.iter().all(|rate| rate != "0" && rate != "-")
                    && lines == 5
            })
            .await;
        browser
            .wait("shards are in use", || {
                let parts = browser.texts("table.shards tbody tr td:first-of-type .part");
                parts.len() == 4 && parts.iter().all(|part| part != "0 %")
            })
            .await;
        scene.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_in_trouble_is_said_first_with_what_to_do() {
    scenario(5 * PATIENCE, async {
        let scene = scenes::trouble(MARKUP).await;
        let browser = Browser::open(scene.relay.admin(), "").await;
        shows_the_status(&browser, &scene.relay).await;
        // How full a shard is goes up and down.
        browser
            .wait("a full shard is found", || {
                browser.text("#findings").contains("near the budget")
            })
            .await;
        let headline = browser.text("#headline");
        assert!(headline.contains("somebody now"), "{headline}");
        let words = ["Act now", "Stream not-made-yet takes no records", "visits", "globex"];
        let stream = finding(&browser, &words);
        let blocked = finding(&browser, &["Act now", "payments", "blocked", "initech"]);
        let invalid = finding(&browser, &["Act now", "exports", "invalid", "batch_size"]);
        let parked = finding(&browser, &["Look today", "invoices", "17 dead letters", "dlq"]);
        let shard = finding(&browser, &["Look today", "clicks-of-all", "near the budget"]);
        let paused = finding(&browser, &["Note", "audit", "paused"]);
        let worst = stream.max(blocked).max(invalid);
        assert!(worst < parked.min(shard), "what is worse comes first");
        assert!(parked.max(shard) < paused, "what is worse comes first");
        // Each leads to a page that this relay has.
        let links = browser.run(
            "return [...document.querySelectorAll('#findings a:not([hidden])')].map((one) => one.getAttribute('href'))",
        );
        let links: Vec<String> = serde_json::from_value(links).expect("links");
        assert!(links.len() >= 5, "{links:?}");
        for link in &links {
            let (code, text) = scene.relay.get(&format!("/{link}")).expect("an answer");
            assert_eq!(code, 200, "{link}");
            assert!(text.contains("What to do"), "{link}: {text}");
        }
        // The pipelines in trouble stand first, the healthy one last.
        let names = browser.texts("#pipeline-rows .name");
        assert_eq!(names.last().map(String::as_str), Some("default/orders"));
        let full = "table.shards td[data-heat=full]";
        browser
            .wait("a shard is full", || !browser.texts(full).is_empty())
            .await;
        let events = browser.texts("#event-rows tr");
        let has = |words: &[&str]| {
            let found = |one: &&String| words.iter().all(|word| one.contains(word));
            assert!(events.iter().any(|one| found(&one)), "{words:?}: {events:#?}");
        };
        has(&["rows parked: variable missing", "default/invoices", "acme", "17 rows"]);
        has(&["reload taken"]);
        has(&["started again: panic", "probe of database default"]);
        // What came from a database is a text and nothing else.
        let reasons = browser.texts("#pipeline-rows .reason");
        assert!(reasons.iter().any(|reason| reason.contains(MARKUP)), "{reasons:#?}");
        assert_eq!(browser.run("return document.querySelectorAll('main img').length"), 0);
        let title = browser.run("return document.title");
        let node = scene.relay.status()["node"].clone();
        assert_eq!(title, format!("(!) tidegate {}", node.as_str().expect("a name")));
        every_field_is_described(&scene.relay.status());

        // What is deleted is nobody's trouble any more, though a row holds it.
        scene.world.sql("SELECT tide.relay_delete('payments')").await;
        browser
            .wait("a deleted pipeline is gone", || {
                let shown = browser.text("#pipelines-section") + &browser.text("#findings");
                !shown.contains("default/payments")
            })
            .await;
        assert_eq!(scene.relay.state("payments"), "");
        scene.end().await;
    })
    .await;
}

/// Asserts that the documentation names every field of a status.
fn every_field_is_described(status: &Value) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/status-page.md");
    let text = std::fs::read_to_string(path).expect("the documentation");
    let mut open = vec![status];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let is_named = text.contains(&format!("`{name}`"))
                        || text.contains(&format!("`{name}[]`"));
                    assert!(
                        is_named,
                        "docs/status-page.md does not name {name}: {value}"
                    );
                    open.push(value);
                }
            }
            Value::Array(values) => open.extend(values),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_and_a_text_narrow_what_is_seen_and_the_address_keeps_it() {
    scenario(3 * PATIENCE, async {
        let scene = scenes::idle().await;
        let browser = Browser::open(scene.relay.admin(), "#tenant=acme").await;
        let names = || browser.texts("#pipeline-rows .name");
        assert_eq!(names(), ["default/invoices", "default/orders"]);
        assert_eq!(
            browser.run("return document.getElementById('tenant').value"),
            "acme"
        );
        assert_eq!(browser.texts("#figures dd")[0], "2 of 2");
        browser.run("document.getElementById('find').focus()");
        browser.press("order");
        assert_eq!(names(), ["default/orders"]);
        assert_eq!(browser.text("#matching"), "1 of 3 pipelines");
        assert_eq!(
            browser.run("return location.hash"),
            "#tenant=acme&find=order"
        );
        browser.run("document.getElementById('clear').click()");
        assert_eq!(names().len(), 3);
        assert_eq!(browser.run("return location.hash"), "");
        // A tenant that is not there is no reason to show another one's.
        browser.run("location.hash = '#tenant=nobody'");
        browser.wait("nothing fits", || names().is_empty()).await;
        assert_eq!(
            browser.text("#no-pipelines"),
            "No pipeline fits the filter."
        );
        scene.end().await;
    })
    .await;
}
