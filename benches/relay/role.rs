//! Parts of the benchmark that are processes of their own, so that what each uses of
//! the machine can be told apart: this program, started again in a role.
//!
//! A role gets its options as JSON and answers with lines of JSON. It ends when its
//! standard input closes, and so never outlives the benchmark, however that ends.

use std::io::Read;
use std::process::Stdio;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::Failure;

/// The first argument of a process in a role.
pub(crate) const ROLE: &str = "--role";

/// A process in a role. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct RoleProcess {
    name: &'static str,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Closed when this is dropped.
    _stdin: Option<ChildStdin>,
}

// === impl RoleProcess ===

impl RoleProcess {
    /// Starts this program in the role `name`.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(name: &'static str, options: &impl Serialize) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([ROLE, name, &serde_json::to_string(options)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or("a role has no output")?;
        let stdin = child.stdin.take();
        Ok(Self {
            name,
            child,
            lines: BufReader::new(stdout).lines(),
            _stdin: stdin,
        })
    }

    /// The next thing it says.
    ///
    /// # Errors
    /// It ended, or says something else.
    pub(crate) async fn answer<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        let line = self.lines.next_line().await?;
        let line = line.ok_or_else(|| format!("the role {} ended without an answer", self.name))?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Its process id.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn pid(&self) -> Result<u32, Failure> {
        Ok(self.child.id().ok_or("a role has ended")?)
    }
}

/// Says something to whoever started this process.
pub(crate) fn say(answer: &impl Serialize) -> Result<(), Failure> {
    println!("{}", serde_json::to_string(answer)?);
    Ok(())
}

/// Ends this process when whoever started it does.
pub(crate) fn end_with_parent() {
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        // Either way there is nobody left to work for.
        let ended = std::io::stdin().read_to_end(&mut rest);
        std::process::exit(i32::from(ended.is_err()));
    });
}
