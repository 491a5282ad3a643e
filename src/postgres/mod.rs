//! The database side of the relay: its schema, its outboxes, its pipelines.
//!
//! The application's database is a guest's house. Rules:
//! - connections are bounded ([`pool`]), every call is bounded in time, no
//!   transaction is left open;
//! - a read is one statement: the snapshot a window reaches up to is the
//!   statement's own;
//! - ownership is a row ([`PgOutboxStore`] claims it), never a session lock, so
//!   that a connection pooler may stand in between;
//! - `xid8` and `pg_snapshot` travel as text.

mod ahead;
pub mod catalog;
pub mod checkup;
mod error;
mod fields;
mod highest_read;
mod lease;
mod letters;
mod marks;
mod node_notes;
mod nodes;
mod pipeline_states;
pub mod pool;
mod position;
mod probe;
mod quiet;
mod reading;
pub mod rebase;
mod removed;
pub mod replay;
mod retention;
mod roles;
mod saved_places;
pub mod schema;
pub mod server;
mod session;
mod shares;
mod store;
mod windows;

pub use position::written_bytes;
pub use store::PgOutboxStore;
