//! What the service manager is told, over a socket as systemd's.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

/// A service manager, and what it was told so far.
struct Manager {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
    told: Vec<String>,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_nonblocking(true).expect("set");
        Self {
            folder,
            socket,
            told: Vec::new(),
        }
    }

    async fn start(&self, world: &World, more: &[(&str, &str)]) -> Relay {
        let path = self.folder.path().join("notify");
        let mut settings = vec![("NOTIFY_SOCKET", path.to_str().expect("a path"))];
        settings.extend(more);
        world.relay_with(&settings).await
    }

    fn hear(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let datagram = String::from_utf8_lossy(&buffer[..length]);
            self.told.push(datagram.trim_end().to_owned());
        }
    }

    fn count(&mut self, what: &str) -> usize {
        self.hear();
        let is_it = |datagram: &&String| datagram.split('\n').any(|line| line == what);
        self.told.iter().filter(is_it).count()
    }

    /// What it was told, without status and watchdog.
    fn states(&mut self) -> Vec<&str> {
        self.hear();
        let datagrams = self.told.iter().map(|datagram| {
            let first = datagram.split('\n').next();
            first.unwrap_or_default()
        });
        datagrams
            .filter(|state| !state.starts_with("STATUS=") && *state != "WATCHDOG=1")
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn start_reload_and_drain_are_told_in_order() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let mut manager = Manager::new();
        let settings = [("TIDEGATE__LIMITS__DRAIN_GRACE", "30s")];
        let mut relay = manager.start(&world, &settings).await;
        until("it is ready", PATIENCE, || manager.count("READY=1") == 1).await;
        until("it says what it does", PATIENCE, || {
            manager.count("STATUS=1 pipeline: 1 running") == 1
        })
        .await;
        relay.signal("HUP");
        until("it has reloaded", PATIENCE, || {
            manager.count("READY=1") == 2
        })
        .await;
        relay.signal("TERM");
        assert_eq!(relay.end(PATIENCE).await, 0);
        assert_eq!(
            manager.states(),
            ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
        );
        let told = manager.told.join("\n");
        let since = told.split("MONOTONIC_USEC=").nth(1).expect("a time");
        let since: u64 = since
            .lines()
            .next()
            .and_then(|text| text.parse().ok())
            .expect("microseconds");
        // The clock that systemd compares it with: it counts from the boot.
        let uptime = std::fs::read_to_string("/proc/uptime").expect("Linux");
        let uptime: f64 = uptime
            .split_whitespace()
            .next()
            .and_then(|text| text.parse().ok())
            .expect("seconds");
        let age = uptime - Duration::from_micros(since).as_secs_f64();
        assert!((-1.0..60.0).contains(&age), "{since} at {uptime}");
        // It asks for its grace, whatever the unit's TimeoutStopSec= is.
        let extend = told.split("EXTEND_TIMEOUT_USEC=").nth(1).expect("a time");
        let extend: u64 = extend
            .lines()
            .next()
            .and_then(|text| text.parse().ok())
            .expect("microseconds");
        assert!(extend >= 30_000_000, "{extend}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_of_a_relay_that_ends_before_it_is_ready() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        let mut manager = Manager::new();
        let path = manager.folder.path().join("notify");
        let settings = [("NOTIFY_SOCKET", path.to_str().expect("a path"))];
        let mut relay = Relay::start_unready(&world.settings(&settings));
        relay.wait_for_handlers().await;
        relay.signal("TERM");
        assert_eq!(relay.end(PATIENCE).await, 0);
        let states = manager.states();
        assert_eq!(states.last(), Some(&"STOPPING=1"), "{states:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_is_fed_by_progress_alone() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        let mut manager = Manager::new();
        let settings = [
            ("WATCHDOG_USEC", "600000"),
            ("TIDEGATE_TEST_FAULTS", "supervisor.Tick=40:block"),
        ];
        let relay = manager.start(&world, &settings).await;
        until("it is fed", PATIENCE, || manager.count("WATCHDOG=1") >= 5).await;
        until("it is stuck", PATIENCE, || {
            relay.log_lines(&["a test asked for a blocked thread"]) > 0
        })
        .await;
        let fed = manager.count("WATCHDOG=1");
        tokio::time::sleep(Duration::from_secs(3)).await;
        // The last sign of life may be passed on late, once; a timer of its own would
        // have fed it 15 times.
        let fed_since = manager.count("WATCHDOG=1") - fed;
        assert!(fed_since <= 1, "fed {fed_since} times while it is stuck");
        assert_eq!(relay.get("/readyz").expect("an answer").0, 200);
        relay.kill();
    })
    .await;
}

/// It is fed during a drain too, and not at all for another process.
#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_is_fed_while_it_drains() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        // What is refused for certain is left to the next owner; what is not answered is
        // waited for, as long as the grace is.
        world.answer_no_puts();
        world.publish_many("events", 50, 10, 10).await;
        let mut manager = Manager::new();
        let settings = [
            ("WATCHDOG_USEC", "300000"),
            ("TIDEGATE__LIMITS__DRAIN_GRACE", "2s"),
        ];
        let mut relay = manager.start(&world, &settings).await;
        until("rows are in flight", PATIENCE, || {
            relay.pipeline("events")["in_flight_rows"] == 50
        })
        .await;
        relay.signal("TERM");
        until("it stops", PATIENCE, || manager.count("STOPPING=1") == 1).await;
        let fed = manager.count("WATCHDOG=1");
        let began = Instant::now();
        until("it is fed", PATIENCE, || {
            manager.count("WATCHDOG=1") > fed + 5
        })
        .await;
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(relay.end(PATIENCE).await, 0);

        let mut other = Manager::new();
        let settings = [("WATCHDOG_USEC", "300000"), ("WATCHDOG_PID", "1")];
        let relay = other.start(&world, &settings).await;
        until("it is ready", PATIENCE, || other.count("READY=1") == 1).await;
        relay.wait_for_state("events", "running").await;
        assert_eq!(other.count("WATCHDOG=1"), 0);
        relay.kill();
    })
    .await;
}
