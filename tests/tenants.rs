//! Tenants: their definitions in file and database, their shares and their rates, with
//! the program as a child process, a private PostgreSQL and Kinesis over HTTP.

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
#[path = "common/relay.rs"]
mod relay;
#[path = "common/scenario.rs"]
mod scenario;
#[path = "common/statements.rs"]
mod statements;
#[path = "common/way.rs"]
mod way;
#[path = "common/world.rs"]
mod world;

#[allow(dead_code, reason = "the tests of reloads use all of it")]
#[path = "reload/configured.rs"]
mod configured;

#[path = "tenants/defining.rs"]
mod defining;
#[path = "tenants/fairness.rs"]
mod fairness;
#[path = "tenants/rates.rs"]
mod rates;
