//! What the store does when PostgreSQL is in trouble: cut connections, limits,
//! standbys, ids beyond 32 bits, databases that were rebuilt.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::large_futures,
    reason = "a test says what it expects, and has its thread's stack for itself"
)]
#![cfg(feature = "demo")]

#[path = "common/database.rs"]
mod database;
#[path = "common/outbox.rs"]
mod outbox;

#[path = "common/proxy.rs"]
mod proxy;
#[path = "common/renew.rs"]
mod renew;

#[path = "postgres_trouble/conditions.rs"]
mod conditions;
#[path = "postgres_trouble/cut_statements.rs"]
mod cut_statements;
#[path = "postgres_trouble/cuts.rs"]
mod cuts;
#[path = "postgres_trouble/rebase.rs"]
mod rebase;
#[path = "postgres_trouble/rebase_model.rs"]
mod rebase_model;
#[path = "postgres_trouble/wide_ids.rs"]
mod wide_ids;
