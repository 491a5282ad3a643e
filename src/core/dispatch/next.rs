//! What a writer does next.

use crate::core::time::Moment;

/// What a writer does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Send the rows of [`super::Dispatch::in_flight`] in one call.
    Call,
    /// Nothing goes before this moment.
    Wait(Moment, Delay),
    /// Nothing waits, or a call is in flight.
    Nothing,
}

/// Why nothing goes although rows could.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// The shard takes no more now, or a call has failed.
    Shard,
    /// The rows are late anyway, and wait for others to share a call with.
    Company,
}
