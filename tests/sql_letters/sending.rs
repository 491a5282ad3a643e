//! Letters that wait to be sent again: how many are read at once, and what becomes
//! of them, and of replays, when what they were to be sent for is gone.

use tidegate::core::dead_letter::LetterState;
use tidegate::core::resend::LetterPage;
use tidegate::core::row::ROW_OVERHEAD;

use crate::statements::{run, value};
use crate::{Fixture, fixture};

const MIB: i64 = 1024 * 1024;

impl Fixture {
    /// The rows of the letters that are read, as places.
    async fn read(&self, after: Option<&str>, bytes: i64) -> Vec<usize> {
        let page = LetterPage {
            after,
            letters: 100,
            bytes: usize::try_from(bytes).expect("not below zero"),
        };
        let letters = tidegate::core::resend::ResendStore::letters_to_send(
            &self.store,
            "p",
            self.outbox,
            page,
        );
        let letters = letters.await.expect("an answer").letters;
        let place = |id| self.rows.iter().position(|row| *row == id);
        let places = letters.iter().map(|letter| place(letter.row.id));
        places.map(|place| place.expect("a row of ours")).collect()
    }
}

#[tokio::test]
async fn letters_are_read_within_their_bytes() {
    let fixture = fixture().await;
    let letters = [0, 1].map(|place| fixture.letter(place, LetterState::Parked));
    fixture.save(&letters).await;
    let parked: i64 = value(
        &fixture.pool,
        "SELECT sum(bytes)::bigint FROM tide.relay_dead_letter",
    )
    .await;
    let each = i64::try_from(r#"{"a": 1}"#.len() + "{}".len()).expect("small");
    assert_eq!(parked, 2 * each, "payload and headers are weighed");
    let all: i64 = value(&fixture.pool, "SELECT tide.relay_dlq_retry_all('p')").await;
    assert_eq!(all, 2);
    // In memory there is more to a letter.
    let one = each + i64::try_from("a".len() + ROW_OVERHEAD).expect("small");
    assert_eq!(fixture.read(None, 2 * one).await, [0, 1]);
    assert_eq!(fixture.read(None, 2 * one - 1).await, [0]);
    assert_eq!(fixture.read(None, one).await, [0]);
    assert!(fixture.read(None, one - 1).await.is_empty());
    // What is weighed in the table keeps the server from reading more than one.
    run(
        &fixture.pool,
        &format!("UPDATE tide.relay_dead_letter SET bytes = {}", 20 * MIB),
    )
    .await;
    let most = 8 * MIB;
    assert_eq!(fixture.read(None, most).await, [0]);
    assert_eq!(fixture.read(Some("a"), most).await, [1]);
}

#[tokio::test]
async fn a_letter_on_its_way_of_a_dropped_outbox_can_be_discarded() {
    let fixture = fixture().await;
    fixture
        .save(&[fixture.letter(0, LetterState::Parked)])
        .await;
    let id = fixture.id(0).await;
    run(&fixture.pool, "SELECT tide.relay_dlq_retry_all('p')").await;
    let discard = format!("SELECT tide.relay_dlq_discard({id}, 'gone')");
    crate::assert_refused(&fixture.pool, &discard, "55000", &["is being sent again"]).await;
    // Its owner reads another outbox from here on, its lease is live.
    run(&fixture.pool, "SELECT tide.outbox_create('others')").await;
    run(
        &fixture.pool,
        "UPDATE tide.relay_position SET outbox_id = (SELECT outbox_id FROM tide.outbox WHERE name = 'others')",
    )
    .await;
    run(&fixture.pool, "SELECT tide.outbox_drop('events')").await;
    run(&fixture.pool, &discard).await;
    assert_eq!(fixture.states().await, "discarded");
}

#[tokio::test]
async fn a_replay_ends_with_its_pipeline() {
    let fixture = fixture().await;
    let config = r#"'{"sink_type": "kinesis", "stream_name": "s"}'"#;
    let define = format!("SELECT tide.relay_set_outbox('p', 'events', {config})");
    run(&fixture.pool, &define).await;
    let (first, last) = (fixture.rows[0], fixture.rows[9]);
    run(
        &fixture.pool,
        &format!("SELECT tide.relay_replay('p', {first}, {last})"),
    )
    .await;
    run(&fixture.pool, "SELECT tide.relay_delete('p')").await;
    run(&fixture.pool, &define).await;
    let state: String = value(&fixture.pool, "SELECT state FROM tide.relay_replay").await;
    assert_eq!(
        state, "cancelled",
        "a new pipeline of the name is asked for nothing"
    );
}
