//! Reloading the configuration of a running relay: the program as a child process,
//! SIGHUP, a private PostgreSQL, Kinesis over HTTP.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::large_futures,
    reason = "a test says what it expects, and has its thread's stack for itself"
)]
#![allow(
    clippy::zombie_processes,
    reason = "the watchdog outlives the test process on purpose"
)]
#![cfg(feature = "demo")]

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

#[path = "reload/broken.rs"]
mod broken;
#[path = "reload/configured.rs"]
mod configured;
#[path = "reload/databases.rs"]
mod databases;
#[path = "reload/in_place.rs"]
mod in_place;
#[path = "reload/moments.rs"]
mod moments;
#[path = "reload/panics.rs"]
mod panics;
#[path = "reload/stuck.rs"]
mod stuck;
#[path = "reload/thousand.rs"]
mod thousand;
