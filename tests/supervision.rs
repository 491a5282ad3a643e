//! The whole relay as a child process while its actors fail: which of them are
//! started again, why, and what the others notice of it.

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

#[path = "supervision/blast_radius.rs"]
mod blast_radius;
#[path = "supervision/causes.rs"]
mod causes;
#[path = "supervision/chaos.rs"]
mod chaos;
#[path = "supervision/failed.rs"]
mod failed;
#[path = "supervision/restarts.rs"]
mod restarts;
#[path = "supervision/slow.rs"]
mod slow;
#[path = "supervision/stuck.rs"]
mod stuck;
