//! The commands, one per file.
//!
//! Exit codes: 0 done, 1 failed, 64 wrong usage, 78 bad configuration (as
//! `sysexits.h` numbers them).

mod admin_port;
mod check;
mod completions;
#[cfg(feature = "demo")]
mod demo;
mod dlq;
mod doctor;
mod healthcheck;
mod logging;
mod migrate;
mod notify;
mod output;
mod pause;
mod progress;
mod rebase;
mod reload;
mod replay;
mod run;
mod shards;
mod signals;
mod status;
mod table;
mod validate;
mod watchdog;
mod watching;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::environment::Environment;
use crate::config::problem::ConfigError;
use crate::config::settings::Settings;
use output::Output;

const FAILED: u8 = 1;
const USAGE: u8 = 64;
const BAD_CONFIGURATION: u8 = 78;

/// What options that every command takes stand under in its help.
const EVERYWHERE: &str = "Options of every command";

/// Relays PostgreSQL transactional outboxes to Amazon Kinesis Data Streams.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, propagate_version = true)]
#[command(
    after_help = "Without a configuration file DATABASE_URL and the standard AWS_* environment \
are enough. Exit codes: 0 done, 1 failed, 64 wrong usage, 78 bad configuration; \
see docs/running.md for signals."
)]
struct Arguments {
    /// The configuration file (TOML); see configs/tidegate.toml for every key
    #[arg(
        short,
        long,
        global = true,
        env = "TIDEGATE_CONFIG",
        value_name = "FILE",
        help_heading = EVERYWHERE
    )]
    config: Option<PathBuf>,
    /// How results are printed
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORM",
        help_heading = EVERYWHERE
    )]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Relay until SIGTERM or SIGINT, which drain and exit 0; a second signal exits
    /// at once, with 1
    Run {
        /// Check the configuration as `validate` does, look into every database,
        /// say what is there, and exit without starting anything: 1 if a database
        /// does not answer, is a standby, or needs `migrate`
        #[arg(long)]
        check: bool,
    },
    /// Install or upgrade schema `tide` in every configured database
    Migrate,
    /// List, show, retry and discard dead letters: rows that could not be sent
    Dlq(dlq::Arguments),
    /// Check the configuration offline and list everything that is wrong with it,
    /// or what a reload of it would do
    Validate(validate::Arguments),
    /// Show what a relay does: its pipelines, streams and what is wrong; or what the
    /// databases know of their pipelines, if no relay answers
    Status(status::Arguments),
    /// Show the shards of a relay's streams, how full they are, and which keys fill them
    Shards(shards::Arguments),
    /// Look at everything a relay needs (databases, privileges, credentials, streams)
    /// and say what mends what is not good; writes nothing. Exit code 1 if something
    /// fails
    Doctor(doctor::Arguments),
    /// Ask the relay at `admin.listen` whether it makes progress: 0 if it does, 1 if it
    /// does not or does not answer; for containers, whose images have no curl
    Healthcheck(healthcheck::Arguments),
    /// Make outboxes deliverable again after their database was restored from a
    /// dump or moved by logical replication; loses nothing, see docs/postgresql.md
    Rebase(rebase::Arguments),
    /// Hold a pipeline, a tenant or a stream until it is resumed; see docs/pausing.md
    Pause(pause::PauseArguments),
    /// Let go what was paused; it goes on where it stopped
    Resume(pause::ResumeArguments),
    /// Have rows sent again that a pipeline has read; its position stays
    Replay(replay::Arguments),
    /// Print what makes a shell complete this program's command lines; see
    /// docs/commands.md for where it goes
    Completions(completions::CompletionsArguments),
    /// Print the man page, or write those of all commands into a folder
    Man(completions::ManArguments),
    /// Publish, relay, read back and check: with a private PostgreSQL and a
    /// Kinesis emulator
    #[cfg(feature = "demo")]
    Demo(demo::Arguments),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Configuration(#[from] ConfigError),
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Usage(String),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Configuration(_) => ExitCode::from(BAD_CONFIGURATION),
            Self::Failed(_) => ExitCode::from(FAILED),
            Self::Usage(_) => ExitCode::from(USAGE),
        }
    }
}

/// Parses the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are printed the same way, and are no mistakes.
            let code = if error.use_stderr() { USAGE } else { 0 };
            if error.print().is_err() {
                return ExitCode::from(FAILED);
            }
            return ExitCode::from(code);
        }
    };
    let output = arguments.output;
    let settings = || load(arguments.config.as_deref());
    let result = match arguments.command {
        Command::Run { check: true } => {
            settings().and_then(|settings| check::run(settings, output))
        }
        Command::Validate(options) => validate::run(&options, arguments.config.as_deref(), output),
        // A mistake in the file is no illness of the relay.
        Command::Healthcheck(options) => {
            healthcheck::run(&options, arguments.config.as_deref(), output)
        }
        // Signals are heard before anything is read.
        Command::Run { check: false } => signals::Signals::listen()
            .and_then(|signals| run::run(arguments.config.clone(), signals)),
        Command::Status(options) => status::run(arguments.config.as_deref(), &options, output),
        Command::Shards(options) => shards::run(arguments.config.as_deref(), &options, output),
        Command::Doctor(options) => {
            settings().and_then(|settings| doctor::run(settings, &options, output))
        }
        Command::Migrate => settings().and_then(|settings| migrate::run(&settings, output)),
        Command::Rebase(options) => {
            settings().and_then(|settings| rebase::run(&settings, &options, output))
        }
        Command::Pause(options) => {
            settings().and_then(|settings| pause::pause(&settings, &options, output))
        }
        Command::Resume(options) => {
            settings().and_then(|settings| pause::resume(&settings, &options, output))
        }
        Command::Replay(options) => {
            settings().and_then(|settings| replay::run(&settings, &options, output))
        }
        Command::Dlq(options) => {
            settings().and_then(|settings| dlq::run(&settings, options, output))
        }
        Command::Completions(options) => completions::completions(Arguments::command(), &options),
        Command::Man(options) => completions::man(Arguments::command(), &options, output),
        #[cfg(feature = "demo")]
        Command::Demo(options) => demo::run(&options, output),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            output.failure(&failure);
            failure.exit_code()
        }
    }
}

fn load(file: Option<&std::path::Path>) -> Result<Settings, Failure> {
    Ok(Settings::load(file, Environment::of_process())?)
}

#[cfg(test)]
mod tests;
