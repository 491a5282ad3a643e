//! Retention on a real server: what is deleted, what never, and who is told.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test says what it expects"
)]
#![cfg(feature = "demo")]

#[path = "common/database.rs"]
mod database;
#[path = "common/outbox.rs"]
mod outbox;
#[path = "common/statements.rs"]
mod statements;

#[path = "retention/bloat.rs"]
mod bloat;
#[path = "retention/positions.rs"]
mod positions;
#[path = "retention/random.rs"]
mod random;
#[path = "retention/readers.rs"]
mod readers;
#[path = "retention/sweeps.rs"]
mod sweeps;

use std::time::Duration;

use tidegate::core::ports::{ClaimRequest, Epoch, OutboxStore};
use tidegate::core::position::{Position, RowId};
use tidegate::core::retention::{BatchDone, KeptOutbox, RetentionStore, Survey};
use tidegate::core::snapshot::Snapshot;

use crate::outbox::{Fixture, LEASE, granted};

const TURN: Duration = Duration::from_secs(60);

/// An outbox that keeps rows for an hour, and in which they are two hours old when
/// they are published.
async fn outbox_of_old_rows() -> Fixture {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "SELECT tide.outbox_set_retention('events', 1);
            ALTER TABLE tide.outbox_message
                ALTER created_at SET DEFAULT clock_timestamp() - interval '2 hours'",
        )
        .await;
    fixture
}

/// A claim by a relay's file.
fn of_file(pipeline: &str) -> ClaimRequest<'_> {
    ClaimRequest {
        pipeline,
        version: None,
        outbox: "events",
        node: "node",
        lease: LEASE,
    }
}

impl Fixture {
    async fn take(&self, pipeline: &str) -> (Epoch, Position) {
        granted(self.store.claim(of_file(pipeline)).await.expect("granted"))
    }

    /// The pipeline has settled everything up to here.
    async fn settle(&self, pipeline: &str, base: &Snapshot) {
        let (epoch, mut position) = self.take(pipeline).await;
        position.base = base.clone();
        position.open.clear();
        let saved = self
            .store
            .save_position(pipeline, epoch, &position, &[])
            .await;
        assert_eq!(saved, Ok(tidegate::core::ports::Fenced::Written));
    }

    async fn now(&self) -> Snapshot {
        let text: String = sqlx::query_scalar("SELECT pg_current_snapshot()::text")
            .fetch_one(&self.pool)
            .await
            .expect("a snapshot");
        crate::outbox::snapshot(&text)
    }

    async fn batch(&self, rows: u32) -> BatchDone {
        let batch = self.store.remove_batch(self.outbox, &[], rows).await;
        batch.expect("a batch")
    }

    async fn kept(&self) -> Vec<RowId> {
        sqlx::query_scalar("SELECT id FROM tide.outbox_message ORDER BY id")
            .fetch_all(&self.pool)
            .await
            .expect("ids")
    }

    /// The outbox in a survey of the node that sweeps.
    async fn surveyed(&self) -> KeptOutbox {
        match self
            .store
            .survey("node", TURN, &[])
            .await
            .expect("an answer")
        {
            Survey::Ours(outboxes) => outboxes.into_iter().next().expect("an outbox"),
            Survey::NotOurs => panic!("another node sweeps"),
        }
    }
}
