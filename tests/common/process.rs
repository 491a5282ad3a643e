//! Child processes that a test ends, and that end with the test however it ends.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Reads lists of process ids, and kills the groups of the last one when this process
/// has gone: the pipe closes then, even after SIGKILL.
const WATCH: &str = "while read -r list; do pids=$list; done; \
     for pid in $pids; do kill -KILL -- -$pid 2>/dev/null; done";

struct Watchdog {
    shell: Child,
    pids: BTreeSet<u32>,
}

static WATCHDOG: Mutex<Option<Watchdog>> = Mutex::new(None);

/// A child that is killed when it is dropped, or when the test process ends.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        // A group of its own: Ctrl-C is for the test process, which then ends it.
        let child = command.process_group(0).spawn().expect("a child");
        watch(|pids| pids.insert(child.id()));
        Self { child }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The exit code once it has ended; `None` before that, and -1 for an end by a
    /// signal.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let status = self.child.try_wait().expect("a child's state")?;
        Some(status.code().unwrap_or(-1))
    }

    /// Sends a signal: `TERM`, `STOP`, `CONT` and so on.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id();
        let sent = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -{name} {pid}"))
            .status()
            .expect("a shell");
        assert!(sent.success(), "process {pid} could not be sent SIG{name}");
    }

    /// SIGKILL for it and whoever it started.
    pub(crate) fn kill_group(&mut self) {
        let group = format!("kill -KILL -- -{}", self.child.id());
        Command::new("sh")
            .args(["-c", &group])
            .stderr(Stdio::null())
            .status()
            .ok();
        self.kill();
    }

    /// SIGKILL, and the end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        watch(|pids| pids.remove(&self.child.id()));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn watch(change: impl FnOnce(&mut BTreeSet<u32>) -> bool) {
    let mut watchdog = WATCHDOG.lock().unwrap_or_else(PoisonError::into_inner);
    let watchdog = watchdog.get_or_insert_with(|| {
        let shell = Command::new("sh")
            .arg("-c")
            .arg(WATCH)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("a shell");
        Watchdog {
            shell,
            pids: BTreeSet::new(),
        }
    });
    if change(&mut watchdog.pids) {
        let list: Vec<String> = watchdog.pids.iter().map(u32::to_string).collect();
        let orders = watchdog.shell.stdin.as_mut().expect("a pipe");
        writeln!(orders, "{}", list.join(" ")).expect("the watchdog lives");
    }
}
