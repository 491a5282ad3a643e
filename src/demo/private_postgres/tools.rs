//! What is done with PostgreSQL's own programs: making a cluster, a replica of it,
//! a dump.

use std::ffi::OsStr;
use std::process::Output;

use super::error::{PrivatePostgresError, system};
use super::{PrivatePostgres, PrivatePostgresOptions, tail};

impl PrivatePostgres {
    pub(super) fn initialize(&self) -> Result<(), PrivatePostgresError> {
        let data = self.data_path();
        let data = data.as_os_str();
        let fixed = [
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ];
        let mut arguments = vec![OsStr::new("-D"), data];
        arguments.extend(fixed.iter().map(OsStr::new));
        self.run_program("initdb", &arguments).map(drop)
    }

    /// Lets transaction ids begin far above 32 bits.
    pub(super) fn set_xid_epoch(&self) -> Result<(), PrivatePostgresError> {
        if self.options.xid_epoch == 0 {
            return Ok(());
        }
        let epoch = self.options.xid_epoch.to_string();
        let data = self.data_path();
        let arguments = [
            OsStr::new("-D"),
            data.as_os_str(),
            OsStr::new("-e"),
            OsStr::new(&epoch),
        ];
        self.run_program("pg_resetwal", &arguments).map(drop)
    }

    /// Makes a streaming replica of this running server and starts it.
    ///
    /// # Errors
    /// As for [`Self::start`]; also when `pg_basebackup` is not installed.
    pub fn start_replica(
        &self,
        options: PrivatePostgresOptions,
    ) -> Result<Self, PrivatePostgresError> {
        let mut replica = Self::prepare(options)?;
        let data = replica.data_path();
        let url = self.url("postgres");
        let arguments = [
            OsStr::new("-D"),
            data.as_os_str(),
            OsStr::new("-d"),
            OsStr::new(&url),
            OsStr::new("--write-recovery-conf"),
            OsStr::new("--checkpoint=fast"),
            OsStr::new("--no-sync"),
        ];
        replica.run_program("pg_basebackup", &arguments)?;
        replica.launch_somewhere()?;
        Ok(replica)
    }

    /// Makes a replica a primary; it takes writes when this returns.
    ///
    /// # Errors
    /// It is none, or did not become one.
    pub fn promote(&self) -> Result<(), PrivatePostgresError> {
        let data = self.data_path();
        let arguments = [
            OsStr::new("promote"),
            OsStr::new("-w"),
            OsStr::new("-D"),
            data.as_os_str(),
        ];
        self.run_program("pg_ctl", &arguments).map(drop)
    }

    /// Copies a database into an empty one of another server, by `pg_dump` and
    /// `psql`, with more options for the former. The roles that the dump's grants name
    /// are made before: they are of a server, not of a database.
    ///
    /// # Errors
    /// One of them is not installed, or failed.
    pub fn dump_into(
        &self,
        database: &str,
        other: &Self,
        empty: &str,
        options: &[&str],
    ) -> Result<(), PrivatePostgresError> {
        let file = self.directory().join("dump.sql");
        let (from, to) = (self.url(database), other.url(empty));
        let mut arguments = vec![OsStr::new("-d"), OsStr::new(&from), OsStr::new("-f")];
        arguments.push(file.as_os_str());
        arguments.extend(options.iter().map(OsStr::new));
        self.run_program("pg_dump", &arguments)?;
        let make_roles = ["publisher", "relay", "operator", "reader"].map(|role| {
            format!(
                "IF to_regrole('tide_{role}') IS NULL THEN CREATE ROLE tide_{role} NOLOGIN; END IF;"
            )
        });
        let make_roles = format!("DO $$ BEGIN {} END $$", make_roles.concat());
        let arguments = ["-d", to.as_str(), "-q", "-X", "-c", make_roles.as_str()];
        self.run_program("psql", &arguments.map(OsStr::new))?;
        let arguments = [
            OsStr::new("-d"),
            OsStr::new(&to),
            OsStr::new("-q"),
            OsStr::new("-X"),
            OsStr::new("-v"),
            OsStr::new("ON_ERROR_STOP=1"),
            OsStr::new("-f"),
            file.as_os_str(),
        ];
        self.run_program("psql", &arguments).map(drop)
    }

    /// Runs one of the server's programs as the server's user.
    fn run_program(
        &self,
        program: &'static str,
        arguments: &[&OsStr],
    ) -> Result<String, PrivatePostgresError> {
        let Output {
            status,
            stdout,
            stderr,
        } = self
            .command(program)
            .args(arguments)
            .output()
            .map_err(system(format!("run {program}")))?;
        let printed = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        if status.success() {
            return Ok(printed);
        }
        Err(PrivatePostgresError::Failed {
            program,
            output: tail(&printed),
        })
    }
}
