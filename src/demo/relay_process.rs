//! The relay as a user runs it: a child process with nothing but an environment.
//!
//! The environment is exactly what is given: variables of the caller (an AWS
//! profile, settings of a relay of the user's) do not reach it. Its working
//! directory is a temporary one, where its log goes. It is a process group of its
//! own, so that Ctrl-C in a terminal reaches the caller alone, and a watchdog ends
//! it when the caller dies.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::watchdog::Watchdog;

/// How often a state is looked at again.
const POLL: Duration = Duration::from_millis(20);

/// How long one question to the admin port may take.
const ANSWER: Duration = Duration::from_secs(5);

/// The key of the admin port's address.
const ADMIN_LISTEN: &str = "TIDEGATE__ADMIN__LISTEN";

/// Why the relay does not run as it should.
#[derive(Debug, thiserror::Error)]
pub enum RelayProcessError {
    /// Something with files or processes.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The system's word.
        source: io::Error,
    },
    /// A command failed.
    #[error("`tidegate {command}` failed ({status}): {printed}")]
    Command {
        /// The command.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it printed.
        printed: String,
    },
    /// It ended when it should not have.
    #[error("the relay ended by itself ({status}); the end of its log:\n{log}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// It did not reach a state in time.
    #[error("the relay was not {state} within {patience:?}; the end of its log:\n{log}")]
    TooSlow {
        /// The state.
        state: &'static str,
        /// How long was waited.
        patience: Duration,
        /// The end of its log.
        log: String,
    },
}

fn system(doing: &'static str) -> impl FnOnce(io::Error) -> RelayProcessError {
    move |source| RelayProcessError::System { doing, source }
}

/// A relay that can be started, killed and started again. Dropping it kills it
/// and removes its log.
#[derive(Debug)]
pub struct RelayProcess {
    program: PathBuf,
    environment: Vec<(String, String)>,
    admin: SocketAddr,
    watchdog: Watchdog,
    child: Option<Child>,
}

// === impl RelayProcess ===

impl RelayProcess {
    /// Prepares a relay of the binary `program` with this environment and an
    /// admin port of its own on 127.0.0.1; it does not run yet.
    ///
    /// # Errors
    /// [`RelayProcessError::System`] when there is no temporary directory, port or
    /// process to be had.
    pub fn new(
        program: PathBuf,
        mut environment: Vec<(String, String)>,
    ) -> Result<Self, RelayProcessError> {
        let directory = tempfile::Builder::new()
            .prefix("tidegate-relay-")
            .tempdir()
            .map_err(system("make a temporary directory"))?;
        let admin = free_address().map_err(system("find a free port"))?;
        environment.push((ADMIN_LISTEN.to_owned(), admin.to_string()));
        Ok(Self {
            program,
            environment,
            admin,
            watchdog: Watchdog::start(directory).map_err(system("start a watchdog"))?,
            child: None,
        })
    }

    /// Where its admin port is.
    #[must_use]
    pub const fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Runs another command of the binary to its end, such as `migrate`, in the
    /// same environment. Blocks.
    ///
    /// # Errors
    /// It cannot be run, or fails.
    pub fn command(&self, arguments: &[&str]) -> Result<Output, RelayProcessError> {
        let output = self
            .prepared(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(system("run a command of the relay"))?;
        if output.status.success() {
            return Ok(output);
        }
        let printed = [output.stdout, output.stderr].concat();
        Err(RelayProcessError::Command {
            command: arguments.join(" "),
            status: output.status,
            printed: String::from_utf8_lossy(&printed).trim().to_owned(),
        })
    }

    /// Starts it; kills it first if it runs.
    ///
    /// # Errors
    /// [`RelayProcessError::System`] when it cannot be started.
    pub fn start(&mut self) -> Result<(), RelayProcessError> {
        self.kill()?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .map_err(system("open the relay's log"))?;
        let log_copy = log.try_clone().map_err(system("open the relay's log"))?;
        let child = self
            .prepared(&["run"])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_copy)
            .spawn()
            .map_err(system("start the relay"))?;
        self.watchdog.watch(Some(child.id()));
        self.child = Some(child);
        Ok(())
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// [`RelayProcessError::System`] when it cannot be signalled.
    pub fn kill(&mut self) -> Result<(), RelayProcessError> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        self.watchdog.watch(None);
        child.kill().map_err(system("kill the relay"))?;
        child.wait().map_err(system("wait for the relay's end"))?;
        Ok(())
    }

    /// Sends it a signal by name, such as `TERM` or `STOP`.
    ///
    /// # Errors
    /// [`RelayProcessError::System`] when there is no shell to do it.
    pub fn signal(&self, name: &str) -> Result<(), RelayProcessError> {
        let Some(child) = &self.child else {
            return Ok(());
        };
        // The standard library can only send SIGKILL.
        Command::new("sh")
            .args(["-c", "kill -\"$0\" \"$1\"", name, &child.id().to_string()])
            .stderr(Stdio::null())
            .status()
            .map_err(system("signal the relay"))?;
        Ok(())
    }

    /// Asks it to end with SIGTERM and gives how it did.
    ///
    /// # Errors
    /// [`RelayProcessError::TooSlow`] when it has not ended when `patience` is
    /// over; it is killed then.
    pub async fn terminate(&mut self, patience: Duration) -> Result<ExitStatus, RelayProcessError> {
        self.signal("TERM")?;
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            tokio::time::sleep(POLL).await;
        }
        let log = self.log_tail();
        self.kill()?;
        Err(RelayProcessError::TooSlow {
            state: "drained",
            patience,
            log,
        })
    }

    /// How it ended, if it is not running (any more). A relay that was killed or
    /// never started has no status: `None`, as for a running one.
    ///
    /// # Errors
    /// [`RelayProcessError::System`] when the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, RelayProcessError> {
        let Some(child) = &mut self.child else {
            return Ok(None);
        };
        let status = child.try_wait().map_err(system("look at the relay"))?;
        if status.is_some() {
            self.watchdog.watch(None);
            self.child = None;
        }
        Ok(status)
    }

    /// An error if it has ended by itself.
    ///
    /// # Errors
    /// [`RelayProcessError::Ended`], with the end of its log.
    pub fn check(&mut self) -> Result<(), RelayProcessError> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => Err(RelayProcessError::Ended {
                status,
                log: self.log_tail(),
            }),
        }
    }

    /// Waits until so many of its pipelines run.
    ///
    /// # Errors
    /// It ends by itself, or `patience` is over.
    pub async fn wait_until_running(
        &mut self,
        pipelines: usize,
        patience: Duration,
    ) -> Result<(), RelayProcessError> {
        let deadline = Instant::now() + patience;
        loop {
            self.check()?;
            if self.running_pipelines().await >= pipelines {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(RelayProcessError::TooSlow {
                    state: "relaying every outbox",
                    patience,
                    log: self.log_tail(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The body of an answer of its admin port with status 200.
    ///
    /// # Errors
    /// It does not answer, or with another status.
    pub async fn get(&self, path: &str) -> io::Result<String> {
        let asking = async {
            let mut stream = TcpStream::connect(self.admin).await?;
            // HTTP 1.0: the answer is not chunked and ends with the connection.
            let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.admin);
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, io::Error>(answer)
        };
        let answer = tokio::time::timeout(ANSWER, asking).await??;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let status = head.split(' ').nth(1).unwrap_or_default();
        if status != "200" {
            return Err(io::Error::other(format!("{path} answers {status:?}")));
        }
        Ok(body.to_owned())
    }

    /// Its log so far, of all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(self.log_path()).map_or_else(
            |error| format!("(no log: {error})"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// The last 25 lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.watchdog.directory().join("relay.log")
    }

    fn prepared(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.watchdog.directory())
            .process_group(0);
        command
    }

    async fn running_pipelines(&self) -> usize {
        let Ok(body) = self.get("/api/status").await else {
            return 0;
        };
        let status: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let pipelines = status["pipelines"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let is_running = |pipeline: &&serde_json::Value| pipeline["state"] == "running";
        pipelines.iter().filter(is_running).count()
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::warn!(%error, "the relay could not be ended");
        }
        self.watchdog.finish();
    }
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
