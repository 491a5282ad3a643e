//! The whole relay as a child process while PostgreSQL is in trouble: it waits,
//! says why, goes on by itself, loses nothing and keeps the order.

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
#[path = "common/proxy.rs"]
mod proxy;
#[path = "common/relay.rs"]
mod relay;
#[path = "common/scenario.rs"]
mod scenario;
#[path = "common/world.rs"]
mod world;

#[path = "database_trouble/conditions.rs"]
mod conditions;
#[path = "database_trouble/cuts.rs"]
mod cuts;
#[path = "database_trouble/disk_full.rs"]
mod disk_full;
#[path = "database_trouble/failover.rs"]
mod failover;
#[path = "database_trouble/kills.rs"]
mod kills;
#[path = "database_trouble/rebuilt.rs"]
mod rebuilt;
