//! Several relays on the same databases: real processes, one PostgreSQL, one stream.
//!
//! What moves and why, who owns what (from a history that triggers write), what it
//! costs the database. All of it runs through PgBouncer in transaction mode too.

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
#[path = "common/pgbouncer.rs"]
mod pgbouncer;
#[path = "common/process.rs"]
mod process;
#[path = "common/proxy.rs"]
mod proxy;
#[path = "common/relay.rs"]
mod relay;
#[path = "common/scenario.rs"]
mod scenario;
#[path = "common/way.rs"]
mod way;
#[path = "common/world.rs"]
mod world;

#[path = "cluster/clocks.rs"]
mod clocks;
#[path = "cluster/cut.rs"]
mod cut;
#[path = "cluster/databases.rs"]
mod databases;
#[path = "cluster/fleet.rs"]
mod fleet;
#[path = "cluster/history.rs"]
mod history;
#[path = "cluster/join.rs"]
mod join;
#[path = "cluster/kill.rs"]
mod kill;
#[path = "cluster/rolling.rs"]
mod rolling;
#[path = "cluster/start.rs"]
mod start;
#[path = "cluster/zombie.rs"]
mod zombie;
