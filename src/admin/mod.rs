//! What the relay shows of itself.
//!
//! - [`metrics`] and [`status`] are written by whoever does the work; they know
//!   nothing of actors or of HTTP.
//! - [`server`] answers `/metrics`, `/livez`, `/readyz`, `/api/status`, `/api/shards`, `/api/config` and `/`
//!   from them, on a thread of its own.

pub mod metrics;
pub mod server;
mod shards;
pub mod status;
