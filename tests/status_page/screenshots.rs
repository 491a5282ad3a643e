//! The pictures of the documentation. They are drawn when somebody asks for them
//! (`make screenshots`), of real relays, and looked at before they are committed.

use std::path::PathBuf;

use crate::browser::Browser;
use crate::scenario::{PATIENCE, scenario_alone};
use crate::scenes::{self, Scene};

/// The longest a picture is, in pixels.
const MOST: u64 = 3000;

async fn draw(scene: Scene, name: &str, points: u64) {
    let browser = Browser::open(scene.relay.admin(), "").await;
    let looks = || {
        let (_, text) = scene.relay.get("/api/history").expect("an answer");
        let history: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        history["looks"].as_u64()
    };
    // One after the other, for each comes in its time.
    for look in 1..=points {
        browser
            .wait("there are rates to be seen", || looks() > Some(look))
            .await;
    }
    let asked = browser.text("#asked");
    browser
        .wait("it is shown", || browser.text("#asked") != asked)
        .await;
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/images");
    std::fs::create_dir_all(&folder).expect("a folder");
    for (scheme, suffix) in [("light", ""), ("dark", "-dark")] {
        browser.prefer(scheme);
        browser.draw(
            1280,
            MOST,
            &folder.join(format!("status-{name}{suffix}.png")),
        );
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes docs/images: make screenshots"]
async fn screenshots() {
    scenario_alone(10 * PATIENCE, async {
        draw(scenes::idle().await, "idle", 3).await;
        draw(scenes::peak().await, "busy", 26).await;
        let scene = scenes::trouble("the warehouse is being moved, ask Alice").await;
        draw(scene, "trouble", 10).await;
    })
    .await;
}
