//! The kinesis layer.
