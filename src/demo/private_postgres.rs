//! A private PostgreSQL for the demo and the tests, so that neither ever touches
//! a server of the user's.
//!
//! A cluster in a temporary directory, on a free port of 127.0.0.1, without
//! passwords. States: running, or not (after [`PrivatePostgres::stop`] or
//! [`PrivatePostgres::kill`], until [`PrivatePostgres::restart`]).
//!
//! Rules:
//! - The server refuses to run as root, so for root another user runs it
//!   (`postgres`, else `nobody`), and the directory belongs to that user.
//! - Nothing outlives the process that started it, however that process ends: a
//!   watchdog child holds the reading end of a pipe, and when the pipe closes it
//!   stops the server at once and removes the directory. A static is never
//!   dropped and a SIGKILLed process drops nothing, yet both close the pipe. (The
//!   parent-death signal of Linux would not do: it fires when the *thread* that
//!   started the child ends, and a test has a thread of its own.)
//! - Server and watchdog are process groups of their own: Ctrl-C in a terminal
//!   reaches the caller alone, who ends them in order.
//!
//! The functions block; starting takes about a second (`initdb`).

mod error;
mod installation;
mod tools;

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tokio::time::Instant;

pub use self::error::PrivatePostgresError;
pub use self::installation::BINARIES_VARIABLE;

use self::error::system;
use self::installation::{ServerUser, find_binaries, server_user};
use super::watchdog::Watchdog;

/// How long the server may take to begin or to end; a loaded machine needs
/// seconds, so this is only a bound.
const DEADLINE: Duration = Duration::from_secs(60);

/// How often a state is looked at again.
const POLL: Duration = Duration::from_millis(10);

/// Ports tried when somebody takes the free one first.
const PORT_TRIES: usize = 5;

/// A Unix socket's path may have 107 bytes; the server adds `/.s.PGSQL.65535`.
const LONGEST_SOCKET_DIRECTORY: usize = 90;

/// How the server is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivatePostgresOptions {
    /// Whether commits survive a crash of the machine (`fsync`). They survive
    /// [`PrivatePostgres::kill`] either way. Off by default: faster, and tests
    /// rarely test the disk.
    pub durable: bool,
    /// Connections allowed, 200 by default.
    pub max_connections: u16,
    /// More settings, such as `("log_statement", "all")`.
    pub settings: Vec<(String, String)>,
    /// Where its directory is made; the system's place for temporary files unless
    /// given.
    pub directory: Option<PathBuf>,
    /// The upper 32 bits of its transaction ids, 0 by default.
    pub xid_epoch: u32,
}

impl Default for PrivatePostgresOptions {
    fn default() -> Self {
        Self {
            durable: false,
            max_connections: 200,
            settings: Vec::new(),
            directory: None,
            xid_epoch: 0,
        }
    }
}

/// A private PostgreSQL server. Dropping it stops it and removes its files.
#[derive(Debug)]
pub struct PrivatePostgres {
    options: PrivatePostgresOptions,
    binaries: PathBuf,
    user: Option<ServerUser>,
    port: u16,
    server: Option<Child>,
    watchdog: Watchdog,
}

impl PrivatePostgres {
    /// Makes a cluster and starts its server; it takes connections when this
    /// returns.
    ///
    /// # Errors
    /// No server binaries, no user to run them, or one of them failed; the error
    /// has the end of its log.
    pub fn start(options: PrivatePostgresOptions) -> Result<Self, PrivatePostgresError> {
        let mut postgres = Self::prepare(options)?;
        postgres.initialize()?;
        postgres.set_xid_epoch()?;
        postgres.launch_somewhere()?;
        Ok(postgres)
    }

    /// A directory and a watchdog; there is no cluster yet.
    fn prepare(options: PrivatePostgresOptions) -> Result<Self, PrivatePostgresError> {
        let binaries = find_binaries()?;
        let parent = options.directory.clone().unwrap_or_else(std::env::temp_dir);
        let temporary = tempfile::Builder::new()
            .prefix("tidegate-pg-")
            .tempdir_in(parent)
            .map_err(system("make a temporary directory"))?;
        let user = server_user(temporary.path())?;
        if let Some(ServerUser { uid, gid }) = user {
            chown(temporary.path(), Some(uid), Some(gid))
                .map_err(system("give the temporary directory to the server's user"))?;
        }
        let watchdog = Watchdog::start(temporary).map_err(system("start the watchdog"))?;
        Ok(Self {
            options,
            binaries,
            user,
            port: free_port()?,
            server: None,
            watchdog,
        })
    }

    fn launch_somewhere(&mut self) -> Result<(), PrivatePostgresError> {
        for _ in 1..PORT_TRIES {
            match self.launch() {
                Err(PrivatePostgresError::Failed { .. }) => self.port = free_port()?,
                result => return result,
            }
        }
        self.launch()
    }

    /// The URL of a database, for its superuser.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", database)
    }

    /// The URL of a database for another user.
    #[must_use]
    pub fn url_as(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The server's process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// Makes an empty database and gives its URL.
    ///
    /// # Errors
    /// The server does not run, or the name is taken.
    pub async fn create_database(&self, name: &str) -> Result<String, PrivatePostgresError> {
        self.create_database_like(name, "template0").await
    }

    /// Makes a copy of a database that nobody is connected to, and gives the
    /// copy's URL.
    ///
    /// # Errors
    /// The server does not run, the name is taken, or the original is in use.
    pub async fn create_database_like(
        &self,
        name: &str,
        original: &str,
    ) -> Result<String, PrivatePostgresError> {
        let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let statement = format!(
            "CREATE DATABASE {} TEMPLATE {}",
            quote(name),
            quote(original)
        );
        self.administer(&statement).await?;
        Ok(self.url(name))
    }

    /// Runs a statement as superuser in the database `postgres`.
    ///
    /// # Errors
    /// The server does not run, or refuses the statement.
    pub async fn administer(&self, statement: &str) -> Result<(), PrivatePostgresError> {
        let failed = |source| PrivatePostgresError::Sql {
            doing: statement.to_owned(),
            source,
        };
        let options: sqlx::postgres::PgConnectOptions =
            self.url("postgres").parse().map_err(failed)?;
        let mut connection = options.connect().await.map_err(failed)?;
        connection
            .execute(AssertSqlSafe(statement.to_owned()))
            .await
            .map_err(failed)?;
        connection.close().await.map_err(failed)
    }

    /// Kills the server with SIGKILL: no checkpoint, no farewell to clients.
    ///
    /// # Errors
    /// It could not be signalled.
    pub fn kill(&mut self) -> Result<(), PrivatePostgresError> {
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        self.watchdog.watch(None);
        server.kill().map_err(system("kill the server"))?;
        server.wait().map_err(system("wait for the server's end"))?;
        Ok(())
    }

    /// Stops the server cleanly, cutting off its clients.
    ///
    /// # Errors
    /// It could not be signalled, or did not end in time (it is killed then).
    pub fn stop(&mut self) -> Result<(), PrivatePostgresError> {
        self.end("INT")
    }

    /// Starts the server again on the same port, stopping it first if it runs.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn restart(&mut self) -> Result<(), PrivatePostgresError> {
        self.stop()?;
        // The children of a killed server hold its memory until they notice; and
        // the port may be in use by a client's socket for a moment.
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.launch() {
                Err(PrivatePostgresError::Failed { .. }) if Instant::now() < deadline => {
                    thread::sleep(POLL * 5);
                }
                result => return result,
            }
        }
    }

    /// The server's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map_or_else(
            |error| format!("(no log: {error})"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    fn directory(&self) -> &Path {
        self.watchdog.directory()
    }

    fn log_path(&self) -> PathBuf {
        self.directory().join("server.log")
    }

    fn data_path(&self) -> PathBuf {
        self.directory().join("data")
    }

    /// The last lines of the log, for an error.
    fn log_tail(&self) -> String {
        tail(&self.log())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        command
            .current_dir(self.directory())
            .stdin(Stdio::null())
            .process_group(0);
        command
            .env_remove("PGDATA")
            .env_remove("PGPORT")
            .env("LC_ALL", "C")
            .env("TZ", "UTC");
        if let Some(ServerUser { uid, gid }) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn launch(&mut self) -> Result<(), PrivatePostgresError> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .map_err(system("open the server's log"))?;
        let log_copy = log.try_clone().map_err(system("open the server's log"))?;
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(self.data_path())
            .stdout(log)
            .stderr(log_copy);
        for (name, value) in self.settings() {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let server = command.spawn().map_err(system("run postgres"))?;
        let pid = server.id();
        self.watchdog.watch(Some(pid));
        let server = self.server.insert(server);
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if server
                .try_wait()
                .map_err(system("look at the server"))?
                .is_some()
            {
                self.server = None;
                self.watchdog.watch(None);
                return Err(PrivatePostgresError::Failed {
                    program: "postgres",
                    output: self.log_tail(),
                });
            }
            if is_ready(self.watchdog.directory(), pid) {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        let log = self.log_tail();
        self.kill()?;
        Err(PrivatePostgresError::TooSlow {
            state: "ready",
            log,
        })
    }

    fn settings(&self) -> Vec<(String, String)> {
        let on = |switch: bool| if switch { "on" } else { "off" }.to_owned();
        let sockets = self.directory().as_os_str().len() <= LONGEST_SOCKET_DIRECTORY;
        let socket_directory = if sockets {
            self.directory().display().to_string()
        } else {
            String::new()
        };
        let mut settings = vec![
            ("listen_addresses".to_owned(), "127.0.0.1".to_owned()),
            ("port".to_owned(), self.port.to_string()),
            ("unix_socket_directories".to_owned(), socket_directory),
            (
                "max_connections".to_owned(),
                self.options.max_connections.to_string(),
            ),
            ("fsync".to_owned(), on(self.options.durable)),
            ("full_page_writes".to_owned(), on(self.options.durable)),
            ("timezone".to_owned(), "UTC".to_owned()),
            ("log_timezone".to_owned(), "UTC".to_owned()),
        ];
        settings.extend(self.options.settings.iter().cloned());
        settings
    }

    fn end(&mut self, signal: &'static str) -> Result<(), PrivatePostgresError> {
        let Some(server) = &mut self.server else {
            return Ok(());
        };
        // The standard library can only send SIGKILL.
        Command::new("sh")
            .args([
                "-c",
                "kill -\"$0\" \"$1\"",
                signal,
                &server.id().to_string(),
            ])
            .stderr(Stdio::null())
            .status()
            .map_err(system("signal the server"))?;
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if server
                .try_wait()
                .map_err(system("look at the server"))?
                .is_some()
            {
                self.server = None;
                self.watchdog.watch(None);
                return Ok(());
            }
            thread::sleep(POLL);
        }
        let log = self.log_tail();
        self.kill()?;
        Err(PrivatePostgresError::TooSlow {
            state: "stopped",
            log,
        })
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        if let Err(error) = self.end("QUIT") {
            tracing::warn!(%error, "the private server did not stop");
        }
        self.watchdog.finish();
    }
}

/// Whether the server says in its lock file that it takes connections: line 1 is
/// its process id, line 8 its state, as `pg_ctl` reads them.
fn is_ready(directory: &Path, pid: u32) -> bool {
    let Ok(text) = fs::read_to_string(directory.join("data/postmaster.pid")) else {
        return false;
    };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.first() == Some(&pid.to_string().as_str())
        && matches!(lines.get(7), Some(&("ready" | "standby")))
}

fn free_port() -> Result<u16, PrivatePostgresError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(system("find a free port"))?;
    Ok(listener
        .local_addr()
        .map_err(system("find a free port"))?
        .port())
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn starts_survives_a_kill_and_leaves_nothing() {
        let mut postgres =
            PrivatePostgres::start(PrivatePostgresOptions::default()).expect("a server");
        let url = postgres.create_database("kept").await.expect("a database");
        let port = postgres.port();
        postgres.kill().expect("killed");
        postgres.restart().expect("restarted");
        assert_eq!(postgres.port(), port);
        let mut connection = sqlx::PgConnection::connect(&url)
            .await
            .expect("it is still there");
        let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::int")
            .fetch_one(&mut connection)
            .await
            .expect("it answers");
        assert!(version >= 130_000, "{version}");
        let directory = postgres.directory().to_owned();
        assert!(directory.exists());
        drop(postgres);
        assert!(!directory.exists());
        assert!(
            TcpListener::bind(("127.0.0.1", port)).is_ok(),
            "the port is in use still"
        );
    }
}
