//! What the relay shows of itself.
//!
//! - [`metrics`] and [`status`] are written by whoever does the work; they know
//!   nothing of actors or of HTTP.
//! - [`server`] answers `/metrics`, `/livez`, `/readyz` and `/api/...` from them, and shows
//!   them as a page at `/`, on a thread of its own.

mod history;
mod markdown;
pub mod metrics;
mod page;
mod runbooks;
pub mod server;
mod shards;
pub mod status;
