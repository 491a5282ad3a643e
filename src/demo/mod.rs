//! Private servers, faults, a load and a checking consumer for the demo and the
//! tests.

pub mod account;
pub mod command;
pub mod consumer;
pub mod deaggregate;
pub mod delivered;
pub mod emulator;
pub mod faults;
pub mod load;
pub mod poison;
pub mod private_postgres;
pub mod relay_process;
pub mod tally;
pub mod verdict;
mod watchdog;
