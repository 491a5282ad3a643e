//! One budget for all nodes: real processes that push the same shards, one emulator
//! that enforces their limits and counts.

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

#[path = "cluster_budget/apart.rs"]
mod apart;
#[path = "cluster_budget/away.rs"]
mod away;
#[path = "cluster_budget/pushed.rs"]
mod pushed;
#[path = "cluster_budget/rows.rs"]
mod rows;
#[path = "cluster_budget/three.rs"]
mod three;
