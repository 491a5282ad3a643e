//! tidegate relays PostgreSQL transactional outboxes to Amazon Kinesis Data
//! Streams: every committed row, in order for each key, inside what each shard can
//! take.
//!
//! # The map
//!
//! A row's way through the crate is the order to read it in:
//!
//! | where | what |
//! |---|---|
//! | `migrations/` | the tables and the publishers' functions |
//! | [`postgres`] | reading windows of committed rows, leases, positions |
//! | [`core::intake`] | what a reader has read, handed on and seen settled; the position |
//! | [`core::render`] | a row becomes a record: key, hash, body |
//! | [`core::send_queue`] | which rows share a record ([`core::aggregation`]) and a call |
//! | [`core::dispatch`] | what goes to a shard, when, and what an answer means |
//! | [`kinesis`] | the calls to the service |
//! | [`actors`] | thin shells round all that, and the supervisor of them |
//!
//! Beside it: [`config`] (settings and pipelines), [`admin`] (metrics, status, the
//! admin port with its page), [`cli`] (the commands), `demo` (private servers, faults and a
//! checking consumer; a feature of that name, never in a production build).
//!
//! A module may use only what stands before it in: [`core`], [`config`],
//! [`postgres`] / [`kinesis`] / [`admin::metrics`], [`actors`], [`admin`], [`cli`].
//! `core` is pure: no clock, no input or output, no actors. `tests/architecture.rs`
//! enforces both.

pub mod actors;
pub mod admin;
pub mod cli;
pub mod config;
pub mod core;
#[cfg(feature = "demo")]
pub mod demo;
pub mod kinesis;
pub mod postgres;
