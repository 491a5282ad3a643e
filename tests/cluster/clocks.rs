//! The wall clock of a node does not matter (Debian's `faketime`): it is an hour off,
//! and jumps while the node runs. Leases run by the database's clock and the process's
//! monotonic one.

use std::path::Path;
use std::process::Command;

use crate::fleet::Fleet;
use crate::history;
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::way::Way;

/// Where Debian has it.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// Offsets that a node's clock jumps to, one after the other.
const JUMPS: [&str; 4] = ["+3600", "-7200", "+864000", "+0"];

fn set(file: &Path, offset: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{offset}\n")).expect("written");
    std::fs::rename(new, file).expect("renamed");
}

/// The hour of a process under that clock, in seconds since 1970.
fn seconds_under(environment: &[(&str, &str)]) -> i64 {
    let mut date = Command::new("date");
    date.arg("+%s").envs(environment.iter().copied());
    let output = date.output().expect("a clock");
    let text = String::from_utf8(output.stdout).expect("text");
    text.trim().parse().expect("a number")
}

async fn a_nodes_clock_jumps(way: Way) {
    if !Path::new(FAKETIME).exists() {
        eprintln!("skipped: no {FAKETIME} (Debian: apt-get install faketime)");
        return;
    }
    let fleet = Fleet::new(way, 2, 9).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("offset");
    set(&file, "+86400");
    let path = file.display().to_string();
    let fake = [
        ("LD_PRELOAD", FAKETIME),
        ("FAKETIME_TIMESTAMP_FILE", path.as_str()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let off = seconds_under(&fake) - seconds_under(&[]);
    assert!(
        (86_000..87_000).contains(&off),
        "the clock is not faked: {off}"
    );
    let load = fleet.load(20.0).await;
    let nodes = [
        fleet.node_with(&fake).await,
        fleet.node().await,
        fleet.node().await,
    ];
    let all: Vec<&Relay> = nodes.iter().collect();
    fleet.balanced(&all).await;
    let before = history::now(fleet.pool()).await;
    for offset in JUMPS {
        set(&file, offset);
        // A whole lease and more goes by after each.
        let beats = |node: &Relay| {
            node.metric(
                "tidegate_database_query_seconds_count",
                &[("query", "beat")],
            )
        };
        let begun = beats(&nodes[0]);
        until("it beats on", PATIENCE, || beats(&nodes[0]) >= begun + 6.0).await;
        fleet.balanced(&all).await;
    }
    assert!(history::moves(fleet.pool(), before).await.is_empty());
    let lost = [("event", "lost")];
    for node in &nodes {
        assert!(node.metric("tidegate_lease_events_total", &lost) < 0.5);
    }
    let (_, verdict) = fleet.world.settle(load).await;
    assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
    history::judge(fleet.pool()).await;
    for node in nodes {
        assert_eq!(node.terminate().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jumps_of_a_nodes_wall_clock_move_nothing() {
    scenario(6 * PATIENCE, a_nodes_clock_jumps(Way::Direct)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jumps_of_a_nodes_wall_clock_move_nothing_through_a_pooler() {
    scenario(6 * PATIENCE, a_nodes_clock_jumps(Way::Pooled)).await;
}
