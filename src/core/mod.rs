//! The rules of the relay, without the outside: no clock, no input or output, no
//! actors. Time, randomness and answers come in as arguments.
#![warn(missing_docs)]

pub mod aggregation;
pub mod backoff;
pub mod body;
pub mod budget;
pub mod catalog;
pub mod checkup;
pub mod classify;
pub mod compression;
pub mod dead_letter;
pub mod dispatch;
pub mod event_id;
pub mod examination;
pub mod fair_ring;
pub mod horizon;
pub mod hot_keys;
pub mod intake;
pub mod invariants;
mod json_scalar;
pub mod lane;
pub mod learnt_map;
pub mod memory_plan;
pub mod page;
pub mod pause;
pub mod permit_shares;
pub mod ports;
pub mod position;
pub mod rate_limit;
pub mod render;
pub mod resend;
pub mod retention;
pub mod routing;
pub mod row;
pub mod sabotage;
pub mod send_queue;
pub mod shard_map;
pub mod skeleton;
pub mod snapshot;
pub mod stash;
pub mod state_notes;
pub mod stream_health;
pub mod supervision;
pub mod template;
pub mod time;
pub mod trouble;
pub mod wait;
