//! The reference pages against what they speak of: the keys of the configuration,
//! the functions of the schema, the snippets that consumers copy.
#![allow(
    clippy::expect_used,
    clippy::large_futures,
    reason = "a test says what it expects, and has its thread's stack for itself"
)]
#![cfg(feature = "demo")]

#[path = "common/database.rs"]
mod database;

#[path = "reference/configuration.rs"]
mod configuration;
#[path = "reference/snippets.rs"]
mod snippets;
#[path = "reference/sql.rs"]
mod sql;

/// The text of a page.
#[track_caller]
fn page(path: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
