//! Amazon Kinesis Data Streams through the AWS SDK: the real side of
//! [`crate::core::ports::StreamService`].
//!
//! - [`client`]: one AWS client per distinct credentials, region and endpoint.
//! - [`clock`]: by how much the local clock differs from the service's.
//! - [`identity`]: whose credentials a client signs with.
//! - [`put`]: from the SDK's errors to the core's failures.
//! - [`stream`]: describe, list shards, put records.

pub mod client;
pub mod clock;
pub mod identity;
pub mod put;
pub mod stream;
