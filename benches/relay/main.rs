//! The relay against its limit, in one run on one machine: `make bench`.
//!
//! A private PostgreSQL, a null Kinesis on loopback ([`null_kinesis`]) and the relay, each
//! a process whose cost is told apart; and in the same run what the relay is compared with
//! ([`reference`]). A case that fails is said to have, and the others are run all the same.
//!
//! | variable | |
//! |---|---|
//! | `CASES` | only cases whose name holds one of these texts, by commas: `CASES=goal/drain,steady` |
//! | `ROWS` | rows of a backlog; 400,000 unless given |
//! | `WATCH_SECONDS` | how long what is timed is watched; 20 unless given |
//! | `HISTORY` | the most rows of kept history; 10,000,000 unless given |
//! | `OPEN_MINUTES` | how long a transaction stays open; 10 unless given |
//! | `RELAY` | the binary to measure: the release binary with `make bench`; with `cargo bench` alone, the one that is built with the benchmark, which has the feature `demo` |
//! | `CONFIGURATION` | TOML added to the configuration of every relay: `CONFIGURATION='limits.pipeline_rows = 2000'` |
//! | `PLOTS` | the folder for curves; `docs/performance` unless given |

mod capacity;
mod case;
mod drains;
mod fairness;
mod figures;
mod flat;
mod idle;
mod limits;
mod null_kinesis;
mod plot;
mod publisher;
mod reference;
mod relay;
mod report;
mod role;
mod stage;
mod steady;
mod usage;

use std::error::Error;
use std::process::ExitCode;

use crate::case::Settings;
use crate::report::Report;

/// Whatever ends a benchmark.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        [_, role, name, options] if *role == role::ROLE => match *name {
            null_kinesis::NULL_KINESIS => null_kinesis::run(options),
            reference::REFERENCE => reference::run(options),
            other => Err(format!("there is no role {other}").into()),
        },
        // Cargo adds arguments of its own.
        _ => bench(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let settings = Settings::from_environment()?;
        let mut report = Report::begin(&stage::what_is_measured()?)?;
        drains::run(&settings, &mut report).await?;
        limits::run(&settings, &mut report).await?;
        steady::run(&settings, &mut report).await?;
        publisher::run(&settings, &mut report).await?;
        idle::run(&settings, &mut report).await?;
        capacity::run(&settings, &mut report).await?;
        fairness::run(&settings, &mut report).await?;
        flat::run(&settings, &mut report).await?;
        report.end()
    })
}
