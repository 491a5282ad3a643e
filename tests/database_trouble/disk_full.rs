//! The server's disk runs full under load: publishers fail, the relay waits;
//! space is freed, and everything goes on.
//!
//! The server lies on a small file system of its own. Mounting one needs root, or
//! sudo; who has neither names one in `TIDEGATE_SMALL_DISK`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tidegate::core::ports::{Claim, ClaimRequest, OutboxStore, StoreError};
use tidegate::core::position::{OpenWindow, Position, WindowNumber};
use tidegate::core::snapshot::Snapshot;
use tidegate::demo::emulator::EmulatorOptions;
use tidegate::demo::load::OutboxLoad;
use tidegate::demo::private_postgres::{PrivatePostgres, PrivatePostgresOptions};
use tidegate::postgres::PgOutboxStore;
use tidegate::postgres::pool::{PoolSettings, connect_lazily};

use crate::relay::program;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

/// A fresh cluster takes about 60 MB.
const SIZE: &str = "150m";

/// A program that runs as root: by itself, or for who may sudo without being asked.
fn as_root(program: &str) -> Command {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    if id.stdout == b"0\n" {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", program]);
    sudo
}

/// A file system that is small; unmounted when dropped.
struct SmallDisk {
    path: PathBuf,
    mounted: Option<tempfile::TempDir>,
}

impl SmallDisk {
    fn new() -> Self {
        if let Some(path) = std::env::var_os("TIDEGATE_SMALL_DISK") {
            return Self {
                path: path.into(),
                mounted: None,
            };
        }
        let folder = tempfile::Builder::new()
            .prefix("tidegate-disk-")
            .tempdir()
            .expect("a folder");
        let mounted = as_root("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={SIZE},mode=1777"))
            .arg("tidegate-small-disk")
            .arg(folder.path())
            .status();
        assert!(
            mounted.is_ok_and(|status| status.success()),
            "this test mounts a small tmpfs, which needs root: run it as root or as a user who may sudo, or let \
             TIDEGATE_SMALL_DISK name an empty directory on a file system of about {SIZE}"
        );
        Self {
            path: folder.path().to_owned(),
            mounted: Some(folder),
        }
    }

    /// Fills it to the last byte; removing the file frees it.
    fn fill(&self) -> PathBuf {
        let path = self.path.join("ballast");
        let mut file = File::create(&path).expect("a file");
        for block in [1 << 20, 1 << 12] {
            let zeros = vec![0; block];
            while file.write_all(&zeros).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Some(folder) = self.mounted.take() {
            unmount(folder.path());
        }
    }
}

fn unmount(path: &Path) {
    // Lazily: a watchdog may still be removing files.
    as_root("umount").arg("-l").arg(path).status().ok();
}

/// Writes ever more positions until the disk has no room; answers what is said.
async fn position_without_room(url: &str) -> String {
    let pool = connect_lazily(&PoolSettings::new(url)).expect("a pool");
    let store = PgOutboxStore::new(pool);
    let mut pipelines = 0;
    loop {
        pipelines += 1;
        let pipeline = format!("filler-{pipelines}");
        let request = ClaimRequest {
            pipeline: &pipeline,
            version: None,
            outbox: "events",
            node: "filler",
            lease: Duration::from_secs(60),
        };
        let claimed = match store.claim(request).await {
            Ok(Claim::Granted { epoch, .. }) => Ok(epoch),
            Ok(held @ (Claim::Held { .. } | Claim::PausesChanged)) => panic!("{held:?}"),
            Err(error) => Err(error),
        };
        let saved = match claimed {
            Ok(epoch) => {
                let wide = Snapshot::new(1, 4_000, (1..4_000).step_by(2).collect());
                let window = |number| OpenWindow {
                    number: WindowNumber(number),
                    snapshot: wide.clone().expect("a snapshot"),
                };
                let position = Position {
                    open: (1..9).map(window).collect(),
                    last_number: WindowNumber(9),
                    ..Position::start()
                };
                store.save_position(&pipeline, epoch, &position, &[]).await
            }
            Err(error) => Err(error),
        };
        match saved {
            Ok(_) => {}
            Err(StoreError::Unavailable(reason)) => return reason,
            Err(error @ StoreError::Refused(_)) => panic!("{error}"),
        }
        assert!(pipelines < 5_000, "the disk does not run full");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_runs_full_under_load_loses_nothing() {
    scenario(3 * PATIENCE, async {
        let disk = SmallDisk::new();
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut server = PrivatePostgres::start(PrivatePostgresOptions {
            directory: Some(disk.path.clone()),
            max_connections: 40,
            settings: vec![
                setting("min_wal_size", "32MB"),
                setting("max_wal_size", "48MB"),
                setting("shared_buffers", "16MB"),
            ],
            ..PrivatePostgresOptions::default()
        })
        .expect("a server");
        let url = server.create_database("app").await.expect("a database");
        let world = World::at(url.clone(), 2, EmulatorOptions::default()).await;
        let migrated = program(&world.settings(&[])).arg("migrate").output();
        assert!(migrated.expect("a migration").status.success());
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        let load = OutboxLoad {
            workers: 4,
            rows_per_second: Some(200.0),
            payload_bytes: 1_000,
            ..OutboxLoad::new("events")
        };
        let load = world.load(vec![load], 54).await;
        world.wait_until_received(200).await;

        let failed_before = load.counts().reconnects;
        let ballast = disk.fill();
        until("publishers fail", PATIENCE, || {
            load.counts().reconnects >= failed_before + 8
        })
        .await;
        let said = position_without_room(&url).await;
        assert!(
            said.contains("53100") && said.contains("disk is full"),
            "{said}"
        );
        assert_eq!(relay.get("/livez").expect("an answer").0, 200);
        let log = server.log();
        assert!(log.contains("No space left on device"), "{log}");

        std::fs::remove_file(ballast).expect("freed");
        if server.administer("SELECT 1").await.is_err() {
            // Without room for its log the server ends itself; a supervisor of the
            // system starts it again.
            eprintln!("the server had ended itself");
            server.restart().expect("a server again");
        }
        let published = load.published();
        load.wait_until_published(published + 200, PATIENCE)
            .await
            .expect("rows");
        let report = load.stop().await.expect("the books");
        world.judge_after_a_crash(&report.rows()).await;
        relay.wait_for_state("events", "running").await;
        assert_eq!(relay.terminate().await, 0);
        // Its last act is to compare the books.
        drop(world);
        drop(server);
    })
    .await;
}
