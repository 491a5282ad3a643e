//! Retention in the simulated database: another node always has the turn, so
//! nothing is deleted. What may be deleted is the business of `tests/retention.rs`.

use std::time::Duration;

use futures::future::BoxFuture;
use tidegate::core::ports::{OutboxId, PipelineName, StoreError};
use tidegate::core::retention::{BatchDone, FileReader, RetentionStore, Survey};

/// Deletes nothing.
pub(crate) struct KeepsAll;

impl RetentionStore for KeepsAll {
    fn survey<'a>(
        &'a self,
        _node: &'a str,
        _turn: Duration,
        _of_file: &'a [FileReader],
    ) -> BoxFuture<'a, Result<Survey, StoreError>> {
        Box::pin(async { Ok(Survey::NotOurs) })
    }

    fn remove_batch<'a>(
        &'a self,
        _outbox: OutboxId,
        _of_file: &'a [PipelineName],
        _rows: u32,
    ) -> BoxFuture<'a, Result<BatchDone, StoreError>> {
        Box::pin(async { Err(StoreError::Refused("another node has the turn".to_owned())) })
    }
}
