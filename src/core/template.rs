//! Partition key templates.
