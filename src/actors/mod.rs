//! The actors: thin shells round the core, and the supervisor of them all.
//!
//! Data goes one way: [`outbox_reader`] -> [`stream_router`] -> [`shard_writer`].
//! [`messages`] lists everything that is said between them. [`supervisor`] starts
//! them and starts them again; [`child`] is how it learns that one has ended.

mod budgets;
pub mod child;
pub mod clock;
pub mod fault;
mod heavy;
pub mod holder;
pub mod messages;
pub mod outbox_reader;
pub mod permits;
mod pipeline_lease;
pub mod pipeline_rate;
mod pipeline_refusal;
mod pipeline_slot;
pub mod probe;
pub mod pulse;
mod reader_drain;
mod reader_restart;
pub mod reservation;
mod rest;
pub mod retention;
pub mod shard_writer;
pub mod stage;
pub mod stream_router;
mod stream_slot;
pub mod stream_watch;
pub mod supervisor;
pub mod tenants;
pub mod ticket;
mod violations;
