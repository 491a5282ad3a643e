//! The admin layer.
