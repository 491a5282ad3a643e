//! What the operator and the owners of pipelines ask for, read and judged.
//!
//! - [`settings`]: the relay's own settings: defaults, then the file, then the
//!   environment.
//! - [`pipeline`]: what one pipeline is, whether it is defined in the file or in
//!   a database.
//! - [`tenant`]: what the pipelines of a tenant may have together.
//! - [`desired`]: all of it together, and [`plan`]: what leads from one such state to
//!   another.
//!
//! [`admin_listen`](mod@admin_listen) is the one key that commands need which ask a relay.
//! [`shown`] is what may be told of them to anybody.
//!
//! Everything is judged at once: a configuration with five mistakes gets five
//! [`problem::ConfigProblem`]s, each naming its key, its line, what was given
//! and what was expected. Nothing secret is ever shown in one.

pub mod admin_listen;
pub mod byte_size;
pub mod client_spec;
pub mod desired;
pub mod environment;
mod fingerprint;
pub mod human_duration;
pub mod location;
pub mod pipeline;
mod pipeline_reader;
pub mod plan;
pub mod problem;
pub mod secret;
pub mod settings;
mod settings_reader;
pub mod shown;
mod table;
pub mod tenant;

pub use byte_size::ByteSize;
pub use client_spec::{ClientSpec, CredentialSource};
pub use desired::{Desired, PipelineKey, Wanted};
pub use environment::Environment;
pub use human_duration::HumanDuration;
pub use location::Location;
pub use pipeline::{PipelineSpec, RateLimit, StreamRef, StreamTarget};
pub use plan::Plan;
pub use problem::{ConfigError, ConfigProblem};
pub use secret::Secret;
pub use settings::Settings;
