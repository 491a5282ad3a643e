//! Amazon Kinesis Data Streams through the AWS SDK: the real side of
//! [`crate::core::ports::StreamService`].
//!
//! - [`client`]: one AWS client per distinct credentials, region and endpoint.
//! - [`put`]: from the SDK's errors to the core's failures.
//! - [`stream`]: describe, list shards, put records.

pub mod client;
pub mod put;
pub mod stream;
