//! Nobody is kept out: axe-core finds nothing, in light and in dark.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::browser::Browser;
use crate::scenario::{PATIENCE, scenario};
use crate::scenes;

/// The source of axe-core.
fn axe() -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let tools = Command::new(root.join("scripts/python-tools"))
        .arg("axe")
        .output()
        .expect("bash is there");
    assert!(
        tools.status.success(),
        "axe-core is needed to check the page: {}",
        String::from_utf8_lossy(&tools.stderr)
    );
    let python = root.join(String::from_utf8_lossy(&tools.stdout).trim());
    let place = Command::new(python)
        .args([
            "-c",
            "import axe_playwright_python as axe; print(axe.__path__[0])",
        ])
        .output()
        .expect("python runs");
    let folder = PathBuf::from(String::from_utf8_lossy(&place.stdout).trim());
    std::fs::read_to_string(folder.join("axe.min.js")).expect("axe-core")
}

/// What is wrong on the page, and how many rules were kept.
fn looked_at(browser: &Browser, axe: &str) -> (Vec<String>, usize) {
    browser.run(axe);
    let found = browser.run_async(
        "axe.run(document).then((all) => done({
            violations: all.violations.map((one) => one.id + ': ' + one.nodes.map((node) => node.html + ' ' + node.failureSummary).join(' | ')),
            passes: all.passes.map((one) => one.id),
        }), (error) => done({violations: [String(error)], passes: []}))",
    );
    let texts =
        |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).expect("texts") };
    let passes = texts(&found["passes"]);
    for rule in [
        "color-contrast",
        "landmark-one-main",
        "bypass",
        "document-title",
    ] {
        assert!(
            passes.iter().any(|one| one == rule),
            "{rule} was not looked at: {passes:?}"
        );
    }
    (texts(&found["violations"]), passes.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn axe_finds_nothing_in_light_and_dark() {
    scenario(5 * PATIENCE, async {
        let axe = axe();
        let scene = scenes::trouble(scenes::MARKUP).await;
        let browser = Browser::open(scene.relay.admin(), "").await;
        for scheme in ["light", "dark"] {
            browser.prefer(scheme);
            let (violations, kept) = looked_at(&browser, &axe);
            assert_eq!(violations, Vec::<String>::new(), "{scheme}");
            assert!(kept > 20, "{kept} rules were kept in {scheme}");
        }
        browser.go_to("runbooks/TidegateShardNearBudget");
        for scheme in ["light", "dark"] {
            browser.prefer(scheme);
            let (violations, _) = looked_at(&browser, &axe);
            assert_eq!(violations, Vec::<String>::new(), "a runbook in {scheme}");
        }
        scene.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_light_or_dark_as_its_reader_is_used_to() {
    scenario(3 * PATIENCE, async {
        let scene = scenes::idle().await;
        let browser = Browser::open(scene.relay.admin(), "").await;
        let colours = || {
            let both = browser.run(
                "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color].map((text) =>
                    text.match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0));",
            );
            serde_json::from_value::<[u64; 2]>(both).expect("two sums")
        };
        browser.prefer("light");
        let [page, text] = colours();
        assert!(page > 600 && text < 200, "light: {page} {text}");
        browser.prefer("dark");
        let [page, text] = colours();
        assert!(page < 150 && text > 600, "dark: {page} {text}");
        scene.end().await;
    })
    .await;
}
