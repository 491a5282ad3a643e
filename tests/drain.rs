//! How a relay ends: signals at good and bad moments, what is left, what systemd
//! is told. Real processes throughout.

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

#[path = "drain/cut_off.rs"]
mod cut_off;
#[path = "drain/full_shards.rs"]
mod full_shards;
#[path = "drain/hang_up.rs"]
mod hang_up;
#[path = "drain/moments.rs"]
mod moments;
#[path = "drain/start.rs"]
mod start;
#[path = "drain/stuck.rs"]
mod stuck;
#[path = "drain/systemd.rs"]
mod systemd;
#[path = "drain/unit.rs"]
mod unit;

use crate::world::World;

/// A lease that no test waits for: whoever takes the pipeline soon was given it.
const LONG_LEASE: (&str, &str) = ("TIDEGATE__CLUSTER__LEASE", "1h");

/// Leases that somebody holds.
async fn leases_held(world: &World) -> i64 {
    let sql = "SELECT count(*) FROM tide.relay_lease WHERE owner <> ''";
    world.number(sql).await
}
