//! The page asks the relay and nobody else.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::browser::Browser;
use crate::scenario::{PATIENCE, scenario};
use crate::scenes;

/// The URLs that pages of the relay asked for since the browser's log was looked at last.
fn asked(browser: &Browser) -> Vec<String> {
    let entries = browser.log("performance");
    let url = |entry: &Value| {
        let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
        let message = &message["message"];
        let page = message["params"]["documentURL"]
            .as_str()
            .unwrap_or_default();
        let is_request = message["method"] == "Network.requestWillBeSent";
        (is_request && page.starts_with(browser.origin())).then(|| {
            message["params"]["request"]["url"]
                .as_str()
                .map(str::to_owned)
        })?
    };
    entries.iter().filter_map(url).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_leaves_the_relay_and_none_changes_anything() {
    scenario(3 * PATIENCE, async {
        let scene = scenes::idle().await;
        let browser = Browser::blank(scene.relay.admin()).await;
        browser.go_to("");
        let mut urls = Vec::new();
        browser
            .wait("the relay was asked twice", || {
                urls.extend(asked(&browser));
                urls.iter().filter(|url| url.ends_with("/api/status")).count() >= 2
            })
            .await;
        browser.go_to("runbooks/TidegateOldestRow");
        urls.extend(asked(&browser));
        let prefix = format!("{}/", browser.origin());
        let paths: BTreeSet<String> = urls
            .iter()
            .map(|url| {
                let path = url.strip_prefix(&prefix);
                let path = path.unwrap_or_else(|| panic!("asked another server: {url}"));
                path.split_once('?').map_or(path, |(path, _)| path).to_owned()
            })
            .collect();
        for path in ["", "api/status", "api/history", "page/style.css", "page/main.js"] {
            assert!(paths.contains(path), "{path:?} is not in {paths:?}");
        }
        // A policy that was broken is an error in the browser's log, and so is a fault.
        let errors: Vec<Value> = browser
            .log("browser")
            .into_iter()
            .filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING")
            .collect();
        assert_eq!(errors, Vec::<Value>::new());
        // The policy is in force: not even a script of ours could ask elsewhere.
        browser.go_to("");
        let refused = browser.run_async(
            "fetch('http://127.0.0.1:9/').then(() => done('asked'), () => 0);
            document.addEventListener('securitypolicyviolation', (event) => done(event.effectiveDirective))",
        );
        assert_eq!(refused, "connect-src");
        scene.end().await;
    })
    .await;
}
