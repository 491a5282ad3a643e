//! tidegate relays PostgreSQL transactional outboxes to Amazon Kinesis Data
//! Streams.

pub mod actors;
pub mod admin;
pub mod cli;
pub mod config;
pub mod core;
#[cfg(feature = "demo")]
pub mod demo;
pub mod kinesis;
pub mod postgres;
