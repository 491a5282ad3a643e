//! What each role of schema `tide` may do, and what nobody learns.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test says what it expects"
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

#[path = "sql_roles/attacks.rs"]
mod attacks;
#[path = "sql_roles/creating.rs"]
mod creating;
#[path = "sql_roles/operators.rs"]
mod operators;
#[path = "sql_roles/publishers.rs"]
mod publishers;
#[path = "sql_roles/relays.rs"]
mod relays;
#[path = "sql_roles/rights.rs"]
mod rights;
#[path = "sql_roles/roles.rs"]
mod roles;
#[path = "sql_roles/secrets.rs"]
mod secrets;
