//! A private PgBouncer (Debian's `pgbouncer`) before a private server. Its service is
//! never used.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use crate::process::Process;
use crate::scenario::{PATIENCE, until};

/// A running PgBouncer; it ends when it is dropped.
pub(crate) struct PgBouncer {
    port: u16,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl PgBouncer {
    /// Starts one before the server on a port of this machine, for one role.
    /// `more`: lines of its section `[pgbouncer]`.
    pub(crate) async fn start(server_port: u16, role: &str, pool_mode: &str, more: &str) -> Self {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.local_addr().expect("an address").port()
        };
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={server_port} user={role}\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = {pool_mode}\ndefault_pool_size = 10\n{more}\n"
        );
        std::fs::write(&file, text).expect("a file");
        let mut command = Command::new("pgbouncer");
        // Debian keeps it out of the way of plain users; and it refuses to be root.
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        if is_root() {
            command.args(["-u", "nobody"]);
        }
        command
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Process::start(&mut command);
        let answers = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        until("PgBouncer listens", PATIENCE, answers).await;
        Self {
            port,
            _process: process,
            _folder: folder,
        }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database behind it.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://any@127.0.0.1:{}/{database}", self.port)
    }
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.is_some_and(|uids| uids.split_whitespace().nth(1) == Some("0"))
}
