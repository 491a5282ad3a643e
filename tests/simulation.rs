//! The real actors and core in a simulated world, from one seed: a database with
//! transactions that commit late, a Kinesis with limits and calls of unknown
//! outcome, nodes that die. Every run ends with the world healed and everything
//! judged by the predicates of `core::invariants`.
//!
//! - `SEED=123 cargo test --features demo --test simulation one_seed -- --nocapture`
//!   replays a seed and prints what happened;
//! - `make sim SEEDS=10000` runs many.
//!
//! `docs/invariants.md` says what is checked and how the simulation is shown to be
//! able to fail.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::large_futures,
    clippy::cast_precision_loss,
    reason = "a test says what it expects, and has its thread's stack for itself"
)]
#![cfg(feature = "demo")]

#[path = "simulation/books.rs"]
mod books;
#[path = "simulation/bugs.rs"]
mod bugs;
#[path = "simulation/catalog.rs"]
mod catalog;
#[path = "simulation/database.rs"]
mod database;
#[path = "simulation/dice.rs"]
mod dice;
#[path = "simulation/events.rs"]
mod events;
#[path = "simulation/fairness.rs"]
mod fairness;
#[path = "simulation/frozen.rs"]
mod frozen;
#[path = "simulation/idle.rs"]
mod idle;
#[path = "simulation/kinesis.rs"]
mod kinesis;
#[path = "simulation/ledger.rs"]
mod ledger;
#[path = "simulation/limits.rs"]
mod limits;
#[path = "simulation/many.rs"]
mod many;
#[path = "simulation/node.rs"]
mod node;
#[path = "simulation/operator.rs"]
mod operator;
#[path = "simulation/packed.rs"]
mod packed;
#[path = "simulation/plan.rs"]
mod plan;
#[path = "simulation/poison.rs"]
mod poison;
#[path = "simulation/publishers.rs"]
mod publishers;
#[path = "simulation/regressions.rs"]
mod regressions;
#[path = "simulation/retention.rs"]
mod retention;
#[path = "simulation/run.rs"]
mod run;
#[path = "simulation/shares.rs"]
mod shares;
#[path = "simulation/store.rs"]
mod store;
#[path = "simulation/stream.rs"]
mod stream;
#[path = "simulation/stuck.rs"]
mod stuck;
#[path = "simulation/together.rs"]
mod together;
#[path = "simulation/trace.rs"]
mod trace;
#[path = "simulation/world.rs"]
mod world;
