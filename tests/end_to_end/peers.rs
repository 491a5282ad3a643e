//! What others ship broken, one test for each line of
//! `docs/failures-of-peers.md` that this crate already answers.
//!
//! A test has the name of the failure and shows that it does not happen here.

#[path = "peers/reading.rs"]
mod reading;
#[path = "peers/running.rs"]
mod running;
#[path = "peers/writing.rs"]
mod writing;
