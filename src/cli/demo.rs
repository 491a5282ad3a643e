//! `tidegate demo`: publishes, relays, reads back and checks, with a private
//! PostgreSQL and a Kinesis emulator.

use std::process::ExitCode;

use super::{Failure, Output, logging};
use crate::config::settings::{LogFormat, LogSettings};
use crate::demo::command::{self, Chaos, DemoOptions, DemoOutput};

/// Options of the demo.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// How many seconds to publish
    #[arg(
        long,
        env = "DEMO_SECONDS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u32).range(1..=3600)
    )]
    seconds: u32,
    /// What is done to the relay on the way: "kill" sends it SIGKILL at random
    /// moments and starts it again
    #[arg(long, env = "CHAOS", default_value = "none", value_parser = parse_chaos)]
    chaos: Chaos,
    /// What chance comes from (another one at every run unless given)
    #[arg(long)]
    seed: Option<u64>,
}

/// An empty text is none, so that an empty environment variable is.
fn parse_chaos(text: &str) -> Result<Chaos, String> {
    match text {
        "" | "none" => Ok(Chaos::Off),
        "kill" => Ok(Chaos::Kill),
        other => Err(format!("{other:?} is neither \"kill\" nor \"none\"")),
    }
}

pub(super) fn run(arguments: &Arguments, output: Output) -> Result<ExitCode, Failure> {
    let failed = |doing: &str, error: std::io::Error| Failure::Failed(format!("{doing}: {error}"));
    logging::start(&LogSettings {
        format: LogFormat::Text,
        filter: "error".to_owned(),
    })?;
    let options = DemoOptions {
        seconds: arguments.seconds,
        chaos: arguments.chaos,
        output: match output {
            Output::Text => DemoOutput::Text,
            Output::Json => DemoOutput::Json,
        },
        program: std::env::current_exe().map_err(|error| failed("find this program", error))?,
        seed: arguments.seed.unwrap_or_else(|| fastrand::u64(..)),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| failed("start a runtime", error))?;
    Ok(ExitCode::from(runtime.block_on(command::run(options))))
}
