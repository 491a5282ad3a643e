//! A child process that cleans up after another child (a private server, a relay),
//! however the process that started both ends.
//!
//! It reads a pipe whose writing end this process holds. The pipe closes when this
//! process closes it, exits, or is killed; the watchdog then ends the process it
//! was last told of and removes the directory.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Reads process ids, the last line being the running process's (empty: none).
/// When the pipe closes, it ends that process and removes the directory.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
process=
while read -r line; do process=$line; done
if [ -n "$process" ]; then
    kill -QUIT "$process" 2>/dev/null
    tries=0
    while kill -0 "$process" 2>/dev/null && [ "$tries" -lt 100 ]; do
        tries=$((tries + 1))
        sleep 0.05
    done
    kill -KILL "$process" 2>/dev/null
fi
rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }
"#;

/// The watchdog and the directory it removes.
#[derive(Debug)]
pub(super) struct Watchdog {
    child: Child,
    directory: PathBuf,
}

impl Watchdog {
    /// Starts it, and leaves the removal of the directory to it.
    ///
    /// # Errors
    /// There is no `sh`, or no more processes.
    pub(super) fn start(temporary: TempDir) -> io::Result<Self> {
        let child = Command::new("sh")
            .args(["-c", SCRIPT, "tidegate-watchdog"])
            .arg(temporary.path())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self {
            child,
            directory: temporary.keep(),
        })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Names the process to end; none when there is none to end. If the watchdog
    /// is gone there is nobody to tell, and dropping its owner still ends the process.
    pub(super) fn watch(&mut self, pid: Option<u32>) {
        let line = pid.map(|pid| pid.to_string()).unwrap_or_default();
        if let Some(pipe) = &mut self.child.stdin
            && let Err(error) = writeln!(pipe, "{line}")
        {
            tracing::warn!(%error, "a watchdog is gone");
        }
    }

    /// Lets it clean up, and waits until it has.
    pub(super) fn finish(&mut self) {
        drop(self.child.stdin.take());
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, "a watchdog did not end");
        }
    }
}
