//! Settings and pipeline definitions.

pub mod pipeline;
