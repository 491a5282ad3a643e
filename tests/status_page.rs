//! The status page in a browser: headless Chromium shows the page of a real relay.
//!
//! Chromium and its driver are Debian's (`make deps`), axe-core comes by
//! `scripts/python-tools`. `make screenshots` draws the pictures of the documentation.
#![cfg(feature = "demo")]
#![allow(
    clippy::expect_used,
    clippy::large_futures,
    reason = "a test says what it expects, and has its thread's stack for itself"
)]

#[path = "common/database.rs"]
mod database;
#[path = "common/process.rs"]
mod process;
#[path = "common/relay.rs"]
mod relay;
#[path = "common/scenario.rs"]
mod scenario;
#[path = "common/world.rs"]
mod world;

#[path = "status_page/access.rs"]
mod access;
#[path = "status_page/bounds.rs"]
mod bounds;
#[path = "status_page/browser.rs"]
mod browser;
#[path = "status_page/content.rs"]
mod content;
#[path = "status_page/driver.rs"]
mod driver;
#[path = "status_page/keyboard.rs"]
mod keyboard;
#[path = "status_page/many.rs"]
mod many;
#[path = "status_page/nodes.rs"]
mod nodes;
#[path = "status_page/origin.rs"]
mod origin;
#[path = "status_page/scenes.rs"]
mod scenes;
#[path = "status_page/screenshots.rs"]
mod screenshots;
#[path = "status_page/stale.rs"]
mod stale;
#[path = "status_page/told_apart.rs"]
mod told_apart;
