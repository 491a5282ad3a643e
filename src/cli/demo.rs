//! `tidegate demo`.

use std::process::ExitCode;

use super::{Failure, Output};

/// Options of the demo.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {}

pub(super) fn run(_: &Arguments, _: Output) -> Result<ExitCode, Failure> {
    Err(Failure::Failed("not here yet".to_owned()))
}
