//! A relay that does not answer.

use std::time::Duration;

use crate::browser::Browser;
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario};
use crate::scenes::{self, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_since_when_it_is_old_and_goes_on_by_itself() {
    scenario(4 * PATIENCE, async {
        let Scene { relay, world, .. } = scenes::idle().await;
        let admin = relay.admin();
        let browser = Browser::open(admin, "").await;
        let names = browser.texts("#pipeline-rows .name");
        assert_eq!(
            browser.run("return document.getElementById('stale').hidden"),
            true
        );
        relay.kill();
        browser
            .wait("the page says that it is old", || {
                browser.text("#stale").starts_with("Stale since ")
            })
            .await;
        let role = browser.run("return document.getElementById('stale').getAttribute('role')");
        assert_eq!(role, "alert");
        // What was known stays to be read.
        assert_eq!(browser.texts("#pipeline-rows .name"), names);

        let listen = admin.to_string();
        let settings = world.settings(&[
            ("TIDEGATE__ADMIN__LISTEN", &listen),
            ("TIDEGATE__CLUSTER__NODE_ID", "relay-b"),
        ]);
        let next = world.keeps_book_of(Relay::start(&settings).await);
        browser
            .wait("the next relay is shown", || {
                browser.run("return document.getElementById('stale').hidden") == true
                    && browser.text("#relay").contains("relay-b")
            })
            .await;
        next.exit_when_told(Duration::from_secs(60)).await;
    })
    .await;
}

impl Relay {
    async fn exit_when_told(self, patience: Duration) {
        self.wait_for_handlers().await;
        self.signal("TERM");
        assert_eq!(self.exit_code(patience).await, 0);
    }
}
