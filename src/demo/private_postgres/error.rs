//! Why there is no private server.

use std::io;
use std::path::PathBuf;

use super::DEADLINE;
use super::installation::BINARIES_VARIABLE;

/// Why there is no private server.
#[derive(Debug, thiserror::Error)]
pub enum PrivatePostgresError {
    /// No server binaries were found.
    #[error(
        "no PostgreSQL server found in /usr/lib/postgresql: install one (Debian: apt-get install postgresql) or set {BINARIES_VARIABLE} to the directory of initdb and postgres"
    )]
    NoBinaries,
    /// The variable names a directory without them.
    #[error("{BINARIES_VARIABLE} is {0:?}, which has no initdb and postgres")]
    BadDirectory(PathBuf),
    /// Root may not run the server and there is nobody else.
    #[error("root cannot run PostgreSQL, and /etc/passwd has neither a user postgres nor nobody")]
    NoUser,
    /// Something with files or processes.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: String,
        /// The system's word.
        source: io::Error,
    },
    /// A program said no.
    #[error("{program} failed: {output}")]
    Failed {
        /// The program.
        program: &'static str,
        /// The end of what it printed.
        output: String,
    },
    /// A state was not reached in time.
    #[error("PostgreSQL was not {state} within {DEADLINE:?}: {log}")]
    TooSlow {
        /// The state.
        state: &'static str,
        /// The end of its log.
        log: String,
    },
    /// A statement failed.
    #[error("{doing}: {source}")]
    Sql {
        /// What was being done.
        doing: String,
        /// The database's word.
        source: sqlx::Error,
    },
}

/// Wraps the system's error with what was being done.
pub(super) fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> PrivatePostgresError {
    let doing = doing.into();
    move |source| PrivatePostgresError::System { doing, source }
}
