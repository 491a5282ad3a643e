//! `docs/kinesis.md` promises a test for each of its claims: every number in its text
//! is a line of its table and the other way round, every test that the table names
//! exists. Claims that no other test shows are shown here, by the real program.
#![allow(
    clippy::expect_used,
    clippy::large_futures,
    reason = "a test says what it expects, and has its thread's stack for itself"
)]
#![allow(
    clippy::zombie_processes,
    reason = "the watchdog outlives the test process on purpose"
)]
#![cfg(feature = "demo")]
// Not every part of what tests share is used here.
#![allow(dead_code, reason = "shared by several test binaries")]

#[path = "common/database.rs"]
mod database;
#[path = "common/named_tests.rs"]
mod named_tests;
#[path = "common/process.rs"]
mod process;
#[path = "common/relay.rs"]
mod relay;
#[path = "common/scenario.rs"]
mod scenario;
#[path = "common/world.rs"]
mod world;

#[path = "kinesis_page/claims.rs"]
mod claims;
#[path = "kinesis_page/table.rs"]
mod table;
