//! The rules of the relay, without the outside: no clock, no input or output, no
//! actors. Time, randomness and answers come in as arguments.
#![warn(missing_docs)]

pub mod body;
pub mod event_id;
mod json_scalar;
pub mod ports;
pub mod position;
pub mod render;
pub mod row;
pub mod shard_map;
pub mod snapshot;
pub mod template;
pub mod time;
