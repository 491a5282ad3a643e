//! Several relays on one database: each one's page tells who holds what.

use serde_json::{Value, json};

use crate::browser::{Browser, ENTER, TAB};
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

/// Every pipeline that the page shows: its name, its state, what waits, its rate, and who
/// holds it.
const SHOWN: &str = "
    const text = (row, selector) => row.querySelector(selector).textContent;
    return [...document.querySelectorAll('#pipeline-rows tr')].map((row) => [
        text(row, '.name'), text(row, '.state'), row.cells[4].textContent,
        text(row, '.rate'), row.cells[8].firstChild.textContent,
    ]);";

const PIPELINES: [&str; 4] = ["audit", "invoices", "orders", "visits"];

async fn relay(world: &World, name: &str) -> Relay {
    let settings = [("TIDEGATE__CLUSTER__NODE_ID", name)];
    world.relay_with(&settings).await
}

/// What a relay is called: its name of the configuration and something of the process.
fn node(relay: &Relay) -> String {
    let status = relay.status();
    status["node"].as_str().expect("a name").to_owned()
}

/// The pipelines that a relay runs.
fn run_by(relay: &Relay) -> Vec<String> {
    let status = relay.status();
    let pipelines = status["pipelines"].as_array().expect("pipelines").iter();
    let running = pipelines.filter(|one| one["state"] == "running");
    let names = running.map(|one| one["name"].as_str().expect("a name").to_owned());
    names.collect()
}

/// Waits until the page shows the pipelines that `here` runs as running and the others as
/// held by `other`.
async fn shows(browser: &Browser, here: &Relay, other: &str) {
    let me = node(here);
    let mut shown = Value::Null;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mine = run_by(here);
        let expected = PIPELINES.map(|name| {
            let full = format!("default/{name}");
            if mine.iter().any(|one| one == name) {
                json!([full, "running", "0", "0", me])
            } else {
                // What waits there is not known here.
                json!([full, "standby", "-", "-", other])
            }
        });
        if shown == json!(expected) {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "the page of {me}: {shown:#}, and not {expected:#?}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        shown = browser.run(SHOWN);
    }
}

/// The rows of the table of nodes: name, state, pipelines.
fn nodes(browser: &Browser) -> Vec<[String; 3]> {
    let rows = browser.run(
        "return [...document.querySelectorAll('#node-rows tr')].map((row) =>
            [row.cells[0].textContent, row.cells[2].textContent, row.cells[4].textContent]).sort()",
    );
    serde_json::from_value(rows).expect("rows")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_page_tells_what_both_nodes_hold_and_who_is_gone() {
    scenario(5 * PATIENCE, async {
        let world = World::new(2).await;
        for (place, name) in PIPELINES.into_iter().enumerate() {
            let tenant = ["acme", "globex"][place % 2];
            world.pipeline(name, json!({"tenant": tenant})).await;
        }
        let (one, two) = (
            relay(&world, "relay-a").await,
            relay(&world, "relay-b").await,
        );
        let are_shared = || run_by(&one).len() == 2 && run_by(&two).len() == 2;
        until("each node has its part", PATIENCE, are_shared).await;
        let (name_of_one, name_of_two) = (node(&one), node(&two));
        let mut rows = Vec::new();
        for name in PIPELINES {
            rows.extend(world.publish_many(name, 20, 5, 20).await);
        }
        world.wait_for(&rows, PATIENCE).await;

        // Each has a page of its own, and both say the same of who holds what.
        let browser = Browser::open(one.admin(), "").await;
        let browser_of_two = Browser::open(two.admin(), "").await;
        shows(&browser, &one, &name_of_two).await;
        shows(&browser_of_two, &two, &name_of_one).await;
        for (browser, here) in [(&browser, &name_of_one), (&browser_of_two, &name_of_two)] {
            let row = |name: &String| {
                let (state, held) = if name == here {
                    ("live, this one", "2 (part: 2)")
                } else {
                    ("live", "2")
                };
                [name.clone(), state.to_owned(), held.to_owned()]
            };
            let expected = [&name_of_one, &name_of_two].map(row);
            browser
                .wait("both nodes are live", || nodes(browser) == expected)
                .await;
            let figures = browser.texts("#figures dd");
            assert_eq!((&*figures[0], &*figures[5]), ("2 of 2", "2"), "{figures:?}");
            assert_eq!(browser.text("#headline"), "Nothing is wrong: rows flow");
        }

        // By keys: the table of nodes is reached, and a heading sorts by who holds what.
        let focus = "return document.activeElement.getAttribute('aria-label')";
        browser.run("document.getElementById('skip').focus()");
        let mut steps = 0;
        while browser.run(focus) != "Table of nodes" {
            steps += 1;
            assert!(steps < 60, "no key leads to the table of nodes");
            browser.press(TAB);
        }
        let owners = || {
            let shown: Vec<[String; 5]> = serde_json::from_value(browser.run(SHOWN)).expect("rows");
            let owners = shown.into_iter().map(|[.., owner]| owner);
            owners.collect::<Vec<String>>()
        };
        browser.run("document.querySelector('[data-sort=owner]').focus()");
        browser.press(ENTER);
        let rising = [&name_of_one, &name_of_one, &name_of_two, &name_of_two];
        let mut sorted = rising.map(String::clone);
        sorted.sort();
        assert_eq!(owners(), sorted);
        browser.press(ENTER);
        sorted.reverse();
        assert_eq!(owners(), sorted);
        browser.press(ENTER);

        // Who is gone without a word is named until its leases are over; then all is here.
        two.kill();
        until("the other one has it all", PATIENCE, || {
            run_by(&one).len() == 4
        })
        .await;
        shows(&browser, &one, "nobody else").await;
        browser
            .wait("the node that is gone holds nothing", || {
                let nodes = nodes(&browser);
                let has = |name: &String, held: &str| {
                    nodes.iter().any(|row| row[0] == *name && row[2] == held)
                };
                has(&name_of_one, "4 (part: 4)") && !has(&name_of_two, "2")
            })
            .await;
        assert_eq!(browser.texts("#figures dd")[5], "0");
        drop(browser_of_two);
        one.terminate().await;
    })
    .await;
}
