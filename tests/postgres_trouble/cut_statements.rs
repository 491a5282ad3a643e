//! The statements of the store, what each answers, and what it needs and leaves
//! behind where that is more than a position.

use sqlx::AssertSqlSafe;
use tidegate::core::dead_letter::{DeadLetter, LetterReason, LetterState};
use tidegate::core::ports::{Epoch, Fenced};
use tidegate::core::position::{Position, RowId, Seq, WindowNumber};
use tidegate::core::resend::ReplayWrite;
use tidegate::core::retention::RetentionStore;

use crate::cuts::Cuts;
use crate::outbox::LEASE;

/// The statements of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Statement {
    Claim,
    Renew,
    Release,
    SavePosition,
    Park,
    OpenWindow,
    ReopenWindow,
    ReadPage,
    ReadRows,
    Probe,
    Backlog,
    Catalog,
    Letters,
    RowsWithLetters,
    LettersToSend,
    SaveLetters,
    WantedResends,
    NextReplay,
    ReadAgain,
    SaveReplay,
    FinishReplay,
    Survey,
    RemoveBatch,
}

pub(crate) const ALL: [Statement; 23] = [
    Statement::Claim,
    Statement::Renew,
    Statement::Release,
    Statement::SavePosition,
    Statement::Park,
    Statement::OpenWindow,
    Statement::ReopenWindow,
    Statement::ReadPage,
    Statement::ReadRows,
    Statement::Probe,
    Statement::Backlog,
    Statement::Catalog,
    Statement::Letters,
    Statement::RowsWithLetters,
    Statement::LettersToSend,
    Statement::SaveLetters,
    Statement::WantedResends,
    Statement::NextReplay,
    Statement::ReadAgain,
    Statement::SaveReplay,
    Statement::FinishReplay,
    Statement::Survey,
    Statement::RemoveBatch,
];

/// The letters of a try: row 0 is parked, row 1 is to be sent again. The replay is
/// of all rows.
const LETTERS_AND_REPLAY: &str = "
    DELETE FROM tide.relay_dead_letter; DELETE FROM tide.relay_replay;
    INSERT INTO tide.relay_dead_letter (pipeline, outbox_id, row_id, window_number, partition_key, payload, headers,
        created_at, reason, message, state)
    SELECT 'p', m.outbox_id, m.id, 1, 'k', m.payload, m.headers, m.created_at, 'key_empty', '', s.state
    FROM (
        SELECT m.*, row_number() OVER (ORDER BY m.id) AS place FROM tide.outbox_message AS m
        JOIN tide.outbox AS o ON o.outbox_id = m.outbox_id AND o.name = 'events'
    ) AS m JOIN (VALUES (1, 'parked'), (2, 'retry')) AS s (place, state) ON s.place = m.place;
    INSERT INTO tide.relay_replay (replay_id, pipeline, outbox_id, from_id, to_id, next_id)
    OVERRIDING SYSTEM VALUE
    SELECT 1, 'p', m.outbox_id, min(m.id), max(m.id), min(m.id) FROM tide.outbox_message AS m
    JOIN tide.outbox AS o ON o.outbox_id = m.outbox_id AND o.name = 'events' GROUP BY m.outbox_id";

/// Rows of another outbox that have outlived it and that its pipeline has settled.
const OLD_ROWS: i64 = 3;

/// What a statement answered, as far as it does not depend on when it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Epoch(Epoch, Position),
    Fenced(Fenced),
    Held(Vec<bool>),
    Rows(Vec<RowId>),
    News(Vec<bool>),
    Count(u64),
    Names(Vec<String>),
    Replay(ReplayWrite),
    Done,
}

impl Cuts {
    pub(crate) async fn value<T>(&self, sql: &str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .fetch_one(&self.direct.pool)
            .await
            .expect("a value")
    }

    /// The letter of row 2.
    pub(crate) fn letter(&self) -> DeadLetter {
        DeadLetter {
            seq: Seq {
                window: WindowNumber(5),
                id: self.rows[2],
            },
            key: Some("k".into()),
            reason: LetterReason::RecordTooLarge,
            message: "cut".to_owned(),
            state: LetterState::Parked,
            blocks_key: false,
            weight: 1,
        }
    }

    pub(crate) async fn prepare(&self, statement: Statement) {
        self.direct.run(LETTERS_AND_REPLAY).await;
        if statement != Statement::RemoveBatch {
            return;
        }
        let id = self.old.0;
        self.direct
            .run(&format!(
                "DELETE FROM tide.outbox_retention WHERE outbox_id = {id};
                DELETE FROM tide.outbox_message WHERE outbox_id = {id};
                SELECT tide.outbox_publish('old', '1') FROM generate_series(1, {OLD_ROWS});
                UPDATE tide.outbox_message SET created_at = '2020-01-01' WHERE outbox_id = {id}"
            ))
            .await;
        // Another transaction: it sees the rows.
        self.direct
            .run(&format!(
                "INSERT INTO tide.relay_position (pipeline, outbox_id, epoch, base)
                VALUES ('old', {id}, 1, pg_current_snapshot())
                ON CONFLICT (pipeline) DO UPDATE SET base = excluded.base"
            ))
            .await;
    }

    /// What batches have deleted is what they remember, no more and no less.
    pub(crate) async fn sweep_the_rest(&self) {
        let id = self.old.0;
        let kept = format!("SELECT count(*) FROM tide.outbox_message WHERE outbox_id = {id}");
        let balance = format!(
            "SELECT ({kept}) + coalesce((
                SELECT removed_rows FROM tide.outbox_retention WHERE outbox_id = {id}), 0)"
        );
        let deadline = tokio::time::Instant::now() + LEASE;
        loop {
            assert_eq!(self.value::<i64>(&balance).await, OLD_ROWS);
            if self.value::<i64>(&kept).await == 0 {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "rows stay");
            // The backend of the cut connection may hold the outbox's row yet.
            let batch = self.direct.store.remove_batch(self.old, &[], 2).await;
            batch.expect("a batch");
        }
    }
}
