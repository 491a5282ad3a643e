//! Settings and pipeline definitions.

pub mod client_spec;
pub mod pipeline;
