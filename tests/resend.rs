//! Replays and rewinds on a real server: what may be sent again, who may write
//! progress down, and where a rewound position stands.

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

use sqlx::AssertSqlSafe;
use tidegate::core::ports::{Epoch, Fenced, OutboxStore};
use tidegate::core::position::{OpenWindow, Position, RowId, WindowNumber};
use tidegate::core::resend::{AgainRequest, ReplayProgress, ReplayWrite, ResendStore};
use tidegate::core::snapshot::Snapshot;

use crate::outbox::{Fixture, granted, ids, publish};

/// A pipeline that owns its outbox, as the fixture's requests name it.
async fn owned(fixture: &Fixture) -> (Epoch, Position) {
    granted(fixture.claim("node-1").await)
}

async fn name_of_pipeline(fixture: &Fixture) -> String {
    sqlx::query_scalar("SELECT pipeline FROM tide.relay_position")
        .fetch_one(&fixture.pool)
        .await
        .expect("one position")
}

async fn error_of(fixture: &Fixture, sql: &str) -> String {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
    let error = done.execute(&fixture.pool).await.expect_err(sql);
    let database = error.as_database_error().expect("the database's");
    let database = database.downcast_ref::<sqlx::postgres::PgDatabaseError>();
    format!("{} / {}", database.message(), database.hint().unwrap_or(""))
}

async fn read_again(fixture: &Fixture, pipeline: &str, seen: &Snapshot) -> Vec<RowId> {
    let request = AgainRequest {
        pipeline: pipeline.into(),
        outbox: fixture.outbox,
        seen: seen.clone(),
        after: 0,
        to: RowId::MAX,
        bound: 100.into(),
    };
    ids(&fixture.store.read_again(&request).await.expect("rows").rows)
}

#[tokio::test]
async fn only_rows_that_were_read_and_are_not_parked_are_read_again() {
    let fixture = Fixture::new().await;
    owned(&fixture).await;
    let pipeline = name_of_pipeline(&fixture).await;
    let mut late = fixture.begin().await;
    let low = publish(&mut late).await;
    let (parked, read) = (fixture.publish().await, fixture.publish().await);
    let (seen, _) = fixture.open(&Snapshot::nothing()).await;
    late.commit().await.expect("committed");
    fixture.publish().await;
    assert_eq!(
        read_again(&fixture, &pipeline, &seen).await,
        [parked, read],
        "neither the late row {low} nor the newest one was read"
    );
    fixture
        .run(&format!(
            "INSERT INTO tide.relay_dead_letter (pipeline, outbox_id, row_id, window_number, payload, headers,
                created_at, reason, message, state)
            SELECT '{pipeline}', outbox_id, id, 1, payload, headers, created_at, 'key_empty', '', 'parked'
            FROM tide.outbox_message WHERE id = {parked}"
        ))
        .await;
    assert_eq!(read_again(&fixture, &pipeline, &seen).await, [read]);
}

#[tokio::test]
async fn progress_is_fenced_and_requests_are_carried_out_in_turn() {
    let fixture = Fixture::new().await;
    let (old, mut position) = owned(&fixture).await;
    let pipeline = name_of_pipeline(&fixture).await;
    let store = &fixture.store;
    let row = fixture.publish().await;
    (position.base, _) = fixture.open(&Snapshot::nothing()).await;
    let saved = store.save_position(&pipeline, old, &position, &[]).await;
    assert_eq!(saved, Ok(Fenced::Written));
    assert_eq!(store.wanted_resends().await, Ok(vec![]));
    for _ in 0..2 {
        fixture
            .run(&format!(
                "SELECT tide.relay_replay('{pipeline}', {row}, {row})"
            ))
            .await;
    }
    assert_eq!(store.wanted_resends().await, Ok(vec![pipeline.clone()]));
    let first = store.next_replay(&pipeline, old).await.unwrap().unwrap();
    assert_eq!((first.from, first.to, first.next), (row, row, row));

    let (new, _) = owned(&fixture).await;
    assert!(new > old);
    assert_eq!(store.next_replay(&pipeline, old).await, Ok(None), "stale");
    let done = ReplayProgress {
        request: first.id,
        next: row + 1,
        sent: 1,
        skipped: 0,
        done: true,
    };
    let save = |epoch| store.save_replay(&pipeline, epoch, &done);
    assert_eq!(save(old).await, Ok(ReplayWrite::Stale));
    assert_eq!(save(new).await, Ok(ReplayWrite::Written));
    let second = store.next_replay(&pipeline, new).await.unwrap().unwrap();
    assert!(second.id > first.id);
    fixture
        .run(&format!("SELECT tide.relay_replay_cancel('{pipeline}')"))
        .await;
    assert_eq!(store.next_replay(&pipeline, new).await, Ok(None));
    let late = ReplayProgress {
        request: second.id,
        ..done.clone()
    };
    let late = store.save_replay(&pipeline, new, &late).await;
    assert_eq!(late, Ok(ReplayWrite::Cancelled));
}

#[tokio::test]
async fn a_rewound_position_loses_nothing_and_fences_its_owner_off() {
    let fixture = Fixture::new().await;
    let (epoch, mut position) = owned(&fixture).await;
    let pipeline = name_of_pipeline(&fixture).await;
    let store = &fixture.store;
    let rewind = |to: RowId| format!("SELECT tide.relay_rewind('{pipeline}', {to}, '{pipeline}')");
    assert!(error_of(&fixture, &rewind(1)).await.contains("is empty"));

    let old = fixture.publish().await;
    let mut late = fixture.begin().await;
    let unsettled = publish(&mut late).await;
    let again = [fixture.publish().await, fixture.publish().await];
    let (base, _) = fixture.open(&Snapshot::nothing()).await;
    late.commit().await.expect("committed");
    let (head, rows) = fixture.open(&base).await;
    assert_eq!(rows, [unsettled]);
    position.base = base;
    position.open = vec![OpenWindow {
        number: WindowNumber(8),
        snapshot: head,
    }];
    position.last_number = WindowNumber(8);
    let saved = store.save_position(&pipeline, epoch, &position, &[]).await;
    assert_eq!(saved, Ok(Fenced::Written));

    let too_high = error_of(&fixture, &rewind(again[1] + 1)).await;
    assert!(too_high.contains("above the newest row"), "{too_high}");
    let too_low = error_of(&fixture, &rewind(old - 1)).await;
    assert!(
        too_low.contains(&format!("lowest id still there is {old}")),
        "{too_low}"
    );
    let unknown = error_of(&fixture, "SELECT tide.relay_rewind('x', 1, 'x')").await;
    assert!(unknown.contains("pipeline 'x' does not exist"), "{unknown}");

    fixture.run(&rewind(again[0])).await;
    let stale = store.save_position(&pipeline, epoch, &position, &[]).await;
    assert_eq!(
        stale,
        Ok(Fenced::Stale),
        "the old owner writes nothing more"
    );
    let (newer, rewound) = granted(fixture.claim("node-2").await);
    assert!(newer > epoch, "and another one need not wait for its lease");
    assert_eq!(
        rewound.last_number,
        WindowNumber(8),
        "no number comes twice"
    );
    assert!(rewound.open.is_empty() && rewound.marks.is_empty());
    let (_, rows) = fixture.open(&rewound.base).await;
    assert_eq!(rows, [unsettled, again[0], again[1]]);
}
