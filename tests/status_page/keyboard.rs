//! The page without a mouse.

use crate::browser::{Browser, DOWN, ENTER, SPACE, TAB};
use crate::scenario::{PATIENCE, scenario};
use crate::scenes;

/// Where the focus is.
const FOCUS: &str = "const one = document.activeElement; return one === document.body ? 'body' :
    one.id || (one.dataset.sort && 'sort ' + one.dataset.sort) || one.getAttribute('aria-label') || one.textContent;";

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_reached_and_used_by_keys() {
    scenario(3 * PATIENCE, async {
        let scene = scenes::idle().await;
        let browser = Browser::open(scene.relay.admin(), "").await;
        let focus = || browser.run(FOCUS).as_str().expect("a name").to_owned();
        // From the top to the end, each place once and no trap.
        let mut places = Vec::new();
        while places.len() < 60 {
            browser.press(TAB);
            let place = focus();
            if place == "body" || places.contains(&place) {
                break;
            }
            let outline = browser.run(
                "const style = getComputedStyle(document.activeElement); return style.outlineStyle + style.outlineWidth;",
            );
            assert_eq!(outline, "solid3px", "the focus on {place} is not to be seen");
            places.push(place);
        }
        let wanted = [
            "skip",
            "tenant",
            "find",
            "trouble",
            "Table of pipelines",
            "sort name",
            "sort tenant",
            "sort rate",
            "Table of tenants",
            "Table of nodes",
            "Table of databases",
            "Table of events",
            "runbooks",
            "configuration",
            "liveness",
        ];
        for place in wanted {
            assert!(places.iter().any(|one| one == place), "{place} is not in {places:?}");
        }

        // The first key leads past what stands before the table.
        browser.run("document.activeElement.blur(); window.scrollTo(0, 0)");
        browser.go_to("#tenant=acme");
        browser.run("document.getElementById('skip').focus()");
        browser.press(ENTER);
        assert_eq!(focus(), "pipelines");
        assert_eq!(browser.run("return location.hash"), "#tenant=acme");

        let sorted = || {
            browser.run("return [...document.querySelectorAll('th[aria-sort]')].map((one) => one.getAttribute('aria-sort')).join()")
        };
        let names = || browser.texts("#pipeline-rows .name");
        browser.run("document.querySelector('[data-sort=name]').focus()");
        browser.press(ENTER);
        assert_eq!(sorted(), "ascending,none,none,none,none,none,none,none,none");
        assert_eq!(names(), ["default/invoices", "default/orders"]);
        browser.press(SPACE);
        assert_eq!(sorted(), "descending,none,none,none,none,none,none,none,none");
        assert_eq!(names(), ["default/orders", "default/invoices"]);
        browser.press(ENTER);
        assert_eq!(sorted(), ["none"; 9].join(","));

        browser.run("document.getElementById('trouble').focus()");
        browser.press(SPACE);
        assert_eq!(names(), Vec::<String>::new());
        assert_eq!(browser.run("return location.hash"), "#tenant=acme&trouble=1");
        browser.press(SPACE);
        browser.run("document.getElementById('tenant').focus()");
        browser.press(DOWN);
        assert_eq!(browser.run("return location.hash"), "#tenant=globex");
        assert_eq!(names(), ["default/visits"]);

        // What is shown anew takes the focus from nobody.
        let asked = browser.text("#asked");
        browser.run("document.querySelector('[data-sort=lag]').focus()");
        browser.wait("the relay was asked again", || browser.text("#asked") != asked).await;
        assert_eq!(focus(), "sort lag");
        scene.end().await;
    })
    .await;
}
