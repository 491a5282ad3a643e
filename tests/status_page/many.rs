//! A thousand pipelines.

use crate::browser::Browser;
use crate::scenario::{PATIENCE, scenario_alone};
use crate::scenes;

/// Milliseconds that the page took to show an answer, of the last ones.
const TIMES: &str = "return performance.getEntriesByName('show').map((one) => one.duration)";

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_pipelines_are_shown_without_making_a_thousand_rows() {
    scenario_alone(6 * PATIENCE, async {
        let scene = scenes::many(1_000).await;
        let browser = Browser::open(scene.relay.admin(), "").await;
        let rows = || browser.run("return document.querySelectorAll('#pipeline-rows tr').length");
        assert_eq!(rows(), 100);
        assert_eq!(browser.texts("#figures dd")[0], "1,000 of 1,000");
        assert_eq!(browser.text("#more-pipelines"), "Show 100 more of 900");
        // An answer that says the same touches no row.
        browser.run(
            "window.touched = 0;
            new MutationObserver((all) => { window.touched += all.length; })
                .observe(document.getElementById('pipeline-rows'),
                    {childList: true, subtree: true, characterData: true, attributes: true});",
        );
        let answers = || {
            browser
                .run("return performance.getEntriesByName('show').length")
                .as_u64()
        };
        let before = answers();
        browser
            .wait("three answers", || {
                answers() >= before.map(|before| before + 3)
            })
            .await;
        assert_eq!(browser.run("return window.touched"), 0);
        // The filter finds one among them.
        browser.run("document.getElementById('find').focus()");
        browser.press("0777");
        assert_eq!(
            browser.texts("#pipeline-rows .name"),
            ["default/pipeline-0777"]
        );
        browser.run("document.getElementById('clear').click()");
        for shown in 2..=10 {
            browser.run("document.getElementById('more-pipelines').click()");
            assert_eq!(rows(), 100 * shown);
        }
        assert_eq!(
            browser.run("return document.getElementById('more-pipelines').hidden"),
            true
        );
        let before = answers();
        browser
            .wait("three answers", || {
                answers() >= before.map(|before| before + 3)
            })
            .await;
        let times: Vec<f64> = serde_json::from_value(browser.run(TIMES)).expect("times");
        let bytes = scene.relay.get("/api/status").expect("a status").1.len();
        eprintln!("1,000 pipelines, {bytes} bytes a status; ms to show each answer: {times:.1?}");
        scene.end().await;
    })
    .await;
}
