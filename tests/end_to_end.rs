//! The whole relay with real parts: the program as a child process, a private
//! PostgreSQL, and Kinesis over HTTP.
//!
//! One binary, so that all its tests share one database server; each test has a
//! database and an emulator of its own.

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

#[path = "common/calls.rs"]
mod calls;
#[path = "common/database.rs"]
mod database;
#[path = "common/process.rs"]
mod process;
#[path = "common/relay.rs"]
mod relay;
#[path = "common/scenario.rs"]
mod scenario;
#[path = "common/shards.rs"]
mod shards;
#[path = "common/world.rs"]
mod world;

#[path = "end_to_end/failures.rs"]
mod failures;
#[path = "end_to_end/isolation.rs"]
mod isolation;
#[path = "end_to_end/kill.rs"]
mod kill;
#[path = "end_to_end/letters.rs"]
mod letters;
#[path = "end_to_end/order.rs"]
mod order;
#[path = "end_to_end/outages.rs"]
mod outages;
#[path = "end_to_end/panics.rs"]
mod panics;
#[path = "end_to_end/parking.rs"]
mod parking;
#[path = "end_to_end/pause.rs"]
mod pause;
#[path = "end_to_end/peers.rs"]
mod peers;
#[path = "end_to_end/poison.rs"]
mod poison;
#[path = "end_to_end/records.rs"]
mod records;
#[path = "end_to_end/replay.rs"]
mod replay;
#[path = "end_to_end/resharding.rs"]
mod resharding;
#[path = "end_to_end/retention.rs"]
mod retention;
#[path = "end_to_end/running.rs"]
mod running;
#[path = "end_to_end/shares.rs"]
mod shares;
#[path = "end_to_end/stream_states.rs"]
mod stream_states;
#[path = "end_to_end/stuck_shard.rs"]
mod stuck_shard;
#[path = "end_to_end/troubles.rs"]
mod troubles;
#[path = "end_to_end/two_relays.rs"]
mod two_relays;
#[path = "end_to_end/unknown.rs"]
mod unknown;
