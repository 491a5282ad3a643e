//! Five million rows through publish, settle and delete: how large the table and
//! its indexes become, and what a read costs at the start and at the end.
//!
//! Run by hand, it takes minutes:
//! `cargo test --features demo --test retention bloat -- --ignored --nocapture`.
//! `BLOAT_ROWS` changes the number of rows.

use tidegate::core::ports::{Fenced, OutboxStore};
use tidegate::core::snapshot::Snapshot;
use tokio::time::Instant;

use crate::outbox::Fixture;
use crate::outbox_of_old_rows;
use crate::statements::{run, value};

/// Rows between two vacuums by hand. They stand for autovacuum, which looks once a
/// minute: here a minute's rows would be two million, elsewhere they are these.
const VACUUM_EVERY: i64 = 500_000;

/// Rows published between two settlements.
const STEP: i64 = 50_000;

/// What the outbox weighs.
async fn sizes(fixture: &Fixture) -> [i64; 4] {
    let size = |what: &str| format!("SELECT pg_relation_size('tide.{what}')");
    let pool = &fixture.pool;
    [
        value(pool, &size("outbox_message")).await,
        value(pool, &size("outbox_message_pkey")).await,
        value(pool, &size("outbox_message_by_transaction")).await,
        value(pool, "SELECT n_dead_tup FROM pg_stat_all_tables WHERE relid = 'tide.outbox_message'::regclass").await,
    ]
}

/// Milliseconds to open a window of 2,000 rows, the best of five.
async fn read_cost(fixture: &Fixture, seen: &Snapshot) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        let opened = fixture
            .store
            .open_window(fixture.outbox, seen, 2_000.into())
            .await;
        opened.expect("a window");
        best = best.min(began.elapsed().as_secs_f64() * 1000.0);
    }
    best
}

#[ignore = "takes minutes"]
#[tokio::test]
async fn bloat_stays_bounded() {
    let rows: i64 =
        std::env::var("BLOAT_ROWS").map_or(5_000_000, |rows| rows.parse().expect("a number"));
    let fixture = outbox_of_old_rows().await;
    let (epoch, mut position) = fixture.take("p").await;
    let publish = |rows: i64| {
        format!(
            "SELECT tide.outbox_publish_many('events', array_agg(jsonb_build_object('n', n, 'text', repeat('x', 150))))
            FROM generate_series(1, {rows}) n"
        )
    };
    let mut first_cost = 0.0;
    let mut largest = [0; 4];
    let began = Instant::now();
    let mut slowest_batch = 0.0_f64;
    for step in 1..=rows / STEP {
        let seen = fixture.now().await;
        run(&fixture.pool, &publish(2_000)).await;
        let cost = read_cost(&fixture, &seen).await;
        if step == 1 {
            first_cost = cost;
        }
        run(&fixture.pool, &publish(STEP - 2_000)).await;
        position.base = fixture.now().await;
        let saved = fixture
            .store
            .save_position("p", epoch, &position, &[])
            .await;
        assert_eq!(saved, Ok(Fenced::Written));
        loop {
            let batch = Instant::now();
            let done = fixture.batch(5_000).await;
            slowest_batch = slowest_batch.max(batch.elapsed().as_secs_f64() * 1000.0);
            if !done.more {
                break;
            }
        }
        if step * STEP % VACUUM_EVERY == 0 {
            run(&fixture.pool, "VACUUM tide.outbox_message").await;
        }
        let now = sizes(&fixture).await;
        for (most, now) in largest.iter_mut().zip(now) {
            *most = now.max(*most);
        }
        if step % 10 == 0 || step == rows / STEP {
            let mib = |bytes: i64| bytes / (1 << 20);
            eprintln!(
                "{:>9} rows {:>5.0} s | table {:>4} MiB, key {:>4} MiB, by transaction {:>4} MiB | dead {:>7} | page of 2,000: {cost:.2} ms",
                step * STEP,
                began.elapsed().as_secs_f64(),
                mib(now[0]),
                mib(now[1]),
                mib(now[2]),
                now[3],
            );
        }
    }
    eprintln!(
        "slowest batch of 5,000: {slowest_batch:.0} ms; first page {first_cost:.2} ms; largest {largest:?}"
    );
    assert_eq!(fixture.kept().await, [0; 0]);
    let removed: i64 = value(
        &fixture.pool,
        "SELECT removed_rows FROM tide.outbox_retention",
    )
    .await;
    assert_eq!(removed, rows / STEP * STEP);
    let published_bytes = rows * 250;
    assert!(
        largest[0] < published_bytes / 4 || rows < 2_000_000,
        "the table grew to {} bytes",
        largest[0]
    );
}
