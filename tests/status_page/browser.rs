//! A browser with one page.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::driver::Driver;
use crate::scenario::PATIENCE;

/// Nothing but the page: no sandbox of a root, no graphics card, no updates and no other
/// calls home.
const FLAGS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
];

/// The keys that tests press, as WebDriver writes them.
pub(crate) const TAB: &str = "\u{e004}";
pub(crate) const ENTER: &str = "\u{e007}";
pub(crate) const SPACE: &str = " ";
pub(crate) const DOWN: &str = "\u{e015}";

/// A browser. It is closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Browser {
    driver: Driver,
    session: String,
    origin: String,
}

impl Browser {
    /// Opens the page of the relay that listens there, with what the address has behind
    /// its `/`, and waits until it shows something.
    pub(crate) async fn open(admin: SocketAddr, rest: &str) -> Self {
        let browser = Self::blank(admin).await;
        browser.go_to(rest);
        browser
            .wait("the page shows a status", || {
                browser.text("#asked").starts_with("as of")
            })
            .await;
        browser
    }

    /// A browser that shows nothing yet.
    pub(crate) async fn blank(admin: SocketAddr) -> Self {
        let driver = Driver::start().await;
        let mut arguments: Vec<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
        let profile = driver.folder("profile");
        arguments.push(format!("--user-data-dir={}", profile.display()));
        arguments.push("--window-size=1400,1000".to_owned());
        let session = driver.open(&arguments);
        Self {
            driver,
            session,
            origin: format!("http://{admin}"),
        }
    }

    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    pub(crate) fn go_to(&self, rest: &str) {
        self.post("url", json!({"url": format!("{}/{rest}", self.origin)}));
    }

    // === WebDriver ===

    #[track_caller]
    fn post(&self, command: &str, body: Value) -> Value {
        let path = format!("{}/{command}", self.session);
        match self.driver.ask("POST", &path, &body) {
            Ok(value) => value,
            Err(reason) => panic!("{reason}"),
        }
    }

    /// What a function body returns in the page.
    #[track_caller]
    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("execute/sync", json!({"script": script, "args": []}))
    }

    /// What a function body gives to its callback `done`.
    #[track_caller]
    pub(crate) fn run_async(&self, script: &str) -> Value {
        let script = format!("const done = arguments[0]; {script}");
        self.post("execute/async", json!({"script": script, "args": []}))
    }

    /// A command of the browser's own protocol.
    #[track_caller]
    pub(crate) fn command(&self, name: &str, parameters: Value) -> Value {
        let body = json!({"cmd": name, "params": parameters});
        self.post("goog/cdp/execute", body)
    }

    /// What was logged since the last time: `browser` or `performance`.
    pub(crate) fn log(&self, kind: &str) -> Vec<Value> {
        let log = self.post("se/log", json!({"type": kind}));
        log.as_array().expect("a log").clone()
    }

    // === The page ===

    /// The text of the first element that fits.
    #[track_caller]
    pub(crate) fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector({selector:?})?.textContent ?? ''");
        let text = self.run(&script);
        text.as_str().expect("a text").to_owned()
    }

    /// The texts of all that fit.
    #[track_caller]
    pub(crate) fn texts(&self, selector: &str) -> Vec<String> {
        let script = format!(
            "return [...document.querySelectorAll({selector:?})].map((one) => one.textContent)"
        );
        let texts = self.run(&script);
        serde_json::from_value(texts).expect("texts")
    }

    /// Presses keys in what has the focus.
    pub(crate) fn press(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| {
                let act = |kind: &str| json!({"type": kind, "value": key.to_string()});
                [act("keyDown"), act("keyUp")]
            })
            .collect();
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.post("actions", json!({"actions": [keyboard]}));
    }

    /// Shows the page as for one who has chosen `light` or `dark`.
    pub(crate) fn prefer(&self, scheme: &str) {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.command("Emulation.setEmulatedMedia", json!({"features": [feature]}));
    }

    /// Draws the page at this width, to its end but not below `most` pixels.
    pub(crate) fn draw(&self, width: u32, most: u64, path: &Path) {
        let height = |browser: &Self| {
            let height = browser.run("return document.documentElement.scrollHeight");
            height.as_u64().expect("a height").min(most)
        };
        let metrics = |height: u64| json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.command("Emulation.setDeviceMetricsOverride", metrics(900));
        let height = height(self);
        self.command("Emulation.setDeviceMetricsOverride", metrics(height));
        let shot = self.command("Page.captureScreenshot", json!({"format": "png"}));
        let data = shot["data"].as_str().expect("a picture");
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(data)
            .expect("base64");
        std::fs::write(path, bytes).expect("written");
    }

    /// Waits until a condition of the page holds.
    #[track_caller]
    pub(crate) fn wait<'a>(
        &'a self,
        what: &'a str,
        mut holds: impl FnMut() -> bool + 'a,
    ) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = Instant::now() + PATIENCE;
            while !holds() {
                assert!(
                    Instant::now() < deadline,
                    "{caller}: not within {PATIENCE:?}: {what}; the page: {}",
                    self.text("main")
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends with its session; the driver is ended by force.
        let ended = self.driver.ask("DELETE", &self.session, &Value::Null);
        if let Err(reason) = ended {
            eprintln!("the browser was not closed: {reason}");
        }
    }
}
