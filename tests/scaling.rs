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
#[path = "scaling/counts.rs"]
mod counts;
#[path = "scaling/rows.rs"]
mod rows;

use std::time::Duration;

use cluster::{Simulated, Size};
use counts::{Counts, Phase};
use tidegate::core::cluster::MOST_ASKS;

const SIZES: [Size; 5] = [
    Size::of(10, Duration::from_secs(4)),
    Size::of(100, Duration::from_secs(4)),
    Size {
        elsewhere: true,
        ..Size::of(100, Duration::from_secs(4))
    },
    Size::of(1_000, Duration::from_secs(4)),
    Size::of(1_000, Duration::from_secs(50)),
];

struct Measured {
    rest: Phase,
    /// Until a joiner has its part.
    join: Phase,
    /// From a node's death on until its pipelines run and its shares are used.
    death: Phase,
    /// Until the dead one's pipelines run.
    replaced: Duration,
}

fn counted(cluster: &mut Simulated, phase: impl FnOnce(&mut Simulated) -> Duration) -> Phase {
    let before = cluster.counts;
    let took = phase(cluster);
    let counts = cluster.counts - before;
    Phase { counts, took }
}

/// A cluster at rest, then a node that joins, then one that dies.
fn measure(size: Size) -> Measured {
    let mut cluster = Simulated::balanced(size);
    cluster.pass(3 * size.pace());
    let rest = counted(&mut cluster, |cluster| {
        let time = 3 * size.pace();
        cluster.pass(time);
        time
    });
    cluster.most_free = 0;
    let joiner = cluster.join();
    let join = counted(&mut cluster, |cluster| {
        cluster.until(|cluster| cluster.has_its_part(joiner))
    });
    // Owners give no more at a time than the joiner asks for.
    let free = cluster.most_free;
    assert!(
        free <= MOST_ASKS,
        "{free} pipelines were nobody's at a time"
    );
    let mut replaced = Duration::ZERO;
    let death = counted(&mut cluster, |cluster| {
        cluster.kill(0);
        replaced = cluster.until(Simulated::all_is_owned);
        replaced + cluster.until(Simulated::shares_are_whole)
    });
    Measured {
        rest,
        join,
        death,
        replaced,
    }
}

fn print(size: Size, measured: &Measured) {
    let elsewhere = if size.elsewhere { ", elsewhere" } else { "" };
    let size = format!("{}{elsewhere} | {} s", size.nodes, size.lease.as_secs());
    measured.rest.print(&format!("{size} | at rest"));
    measured.join.print(&format!("{size} | a node joins"));
    let replaced = measured.replaced.as_secs_f64();
    let death = format!("{size} | a node dies: its pipelines run after {replaced:.1} s");
    measured.death.print(&death);
}

#[test]
#[ignore = "prints a table: make scaling"]
fn table() {
    println!(
        "| nodes | lease | what | took | statements/s | beats/s | claims | releases | share writes | share forgets | share rows written | share rows read | node rows read/s | MiB/s asked | MiB/s answered |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for size in SIZES {
        print(size, &measure(size));
    }
}

fn small(elsewhere: bool) -> Measured {
    let size = Size {
        pipelines: 300,
        elsewhere,
        ..Size::of(10, Duration::from_secs(4))
    };
    let measured = measure(size);
    print(size, &measured);
    measured
}

#[test]
fn a_cluster_at_rest_writes_beats_and_nothing_else() {
    let measured = small(false);
    let Counts { beats, .. } = measured.rest.counts;
    assert_eq!((beats, measured.rest.counts.statements()), (30, 30));
    assert!(measured.join.took < Duration::from_secs(30));
    assert!(measured.replaced < Duration::from_secs(6));
    assert!(measured.death.took < Duration::from_secs(9));
}

/// Of 11 nodes a joiner gets 27 of 300 pipelines: nothing else moves.
#[test]
fn each_pipeline_that_moves_is_released_and_claimed_once() {
    let measured = small(false);
    let join = measured.join.counts;
    assert_eq!((join.claims, join.releases), (27, 27));
    let death = measured.death.counts;
    assert_eq!(death.releases, 0);
    assert!((27..=28).contains(&death.claims), "{death:?}");
    assert_eq!(death.share_forgets, 0);
}

/// What a dead node kept for another database is freed by who misses it.
#[test]
fn kept_shares_of_a_dead_node_are_forgotten() {
    let measured = small(true);
    let (rest, death) = (measured.rest.counts, measured.death.counts);
    assert_eq!((rest.beats, rest.statements()), (60, 60));
    assert!((1..=10).contains(&death.share_forgets), "{death:?}");
    assert!(measured.death.took < Duration::from_secs(9));
}
