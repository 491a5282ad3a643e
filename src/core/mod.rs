//! The rules of the relay, without the outside: no clock, no input or output, no
//! actors. Time, randomness and answers come in as arguments.
#![warn(missing_docs)]

pub mod backoff;
pub mod body;
pub mod budget;
pub mod classify;
pub mod dead_letter;
pub mod dispatch;
pub mod event_id;
pub mod fair_ring;
pub mod intake;
mod json_scalar;
pub mod lane;
pub mod ports;
pub mod position;
pub mod rate_limit;
pub mod render;
pub mod resend;
pub mod row;
pub mod send_queue;
pub mod shard_map;
pub mod snapshot;
pub mod stash;
pub mod supervision;
pub mod template;
pub mod time;
