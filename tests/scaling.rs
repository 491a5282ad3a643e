//! What a cluster's coordination costs, counted: the relay's own beats, balance and
//! shares (`core::cluster`, `core::shares`) for up to 1,000 nodes on rows in memory.
//!
//! `make scaling` prints the table of docs/scaling.md; a smaller cluster is asserted
//! with every run of the tests.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test says what it expects"
)]
#![cfg(feature = "demo")]

#[path = "scaling/cluster.rs"]
mod cluster;
#[path = "scaling/rows.rs"]
mod rows;

use std::time::Duration;

use cluster::{Counts, Simulated, Size};

const SIZES: [Size; 4] = [
    Size::of(10, Duration::from_secs(4)),
    Size::of(100, Duration::from_secs(4)),
    Size::of(1_000, Duration::from_secs(4)),
    Size::of(1_000, Duration::from_secs(50)),
];

struct Row {
    steady: Counts,
    seconds: f64,
    joined: Duration,
    replaced: Duration,
    settled: Duration,
}

/// A cluster at rest, then a node that joins, then one that dies.
fn measure(size: Size) -> Row {
    let mut cluster = Simulated::balanced(size);
    cluster.pass(3 * size.pace());
    let before = cluster.counts;
    let steady = (3 * size.pace()).max(Duration::from_secs(3));
    cluster.pass(steady);
    let steady_counts = cluster.counts - before;
    let joiner = cluster.join();
    let joined = cluster.until(|cluster| cluster.has_its_part(joiner));
    let replaced = {
        cluster.kill(0);
        cluster.until(Simulated::all_is_owned)
    };
    let settled = replaced + cluster.until(Simulated::shares_are_whole);
    Row {
        steady: steady_counts,
        seconds: steady.as_secs_f64(),
        joined,
        replaced,
        settled,
    }
}

fn print(size: Size, row: &Row) {
    let rate = |count: u64| count as f64 / row.seconds;
    let Counts {
        beats,
        claims,
        share_writes,
        bytes_asked,
        bytes_answered,
        node_rows,
    } = row.steady;
    println!(
        "| {} | {} s | {:.0} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} | {:.1} s | {:.1} s | {:.1} s |",
        size.nodes,
        size.lease.as_secs(),
        rate(beats),
        rate(claims),
        rate(share_writes),
        bytes_asked as f64 / beats as f64 / 1024.0,
        bytes_answered as f64 / beats as f64 / 1024.0,
        rate(bytes_answered) / 1024.0 / 1024.0,
        rate(node_rows),
        row.joined.as_secs_f64(),
        row.replaced.as_secs_f64(),
        row.settled.as_secs_f64(),
    );
}

#[test]
#[ignore = "prints a table: make scaling"]
fn table() {
    println!(
        "| nodes | lease | beats/s | claims/s | share writes/s | KiB asked a beat | KiB answered a beat | MiB/s answered | node rows/s read | joiner has its part | the dead one's pipelines run | its shares are used |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for size in SIZES {
        print(size, &measure(size));
    }
}

#[test]
fn a_cluster_at_rest_writes_beats_and_nothing_else() {
    let size = Size {
        pipelines: 300,
        ..Size::of(10, Duration::from_secs(4))
    };
    let row = measure(size);
    print(size, &row);
    assert_eq!((row.steady.claims, row.steady.share_writes), (0, 0));
    assert_eq!(row.steady.beats, 30);
    assert!(row.joined < Duration::from_secs(30), "{:?}", row.joined);
    assert!(row.replaced < Duration::from_secs(6), "{:?}", row.replaced);
    assert!(row.settled < Duration::from_secs(9), "{:?}", row.settled);
}
