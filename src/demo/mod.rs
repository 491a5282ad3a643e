//! Private servers, faults and a checking consumer for the demo and the tests.

pub mod private_postgres;
