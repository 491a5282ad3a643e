//! Printing the same again and again (`--watch`), until Ctrl-C.
//!
//! On a terminal each picture replaces the one before; elsewhere they follow each
//! other, and as JSON there is one line for each.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::{Failure, Output};
use crate::config::human_duration::HumanDuration;

/// Clears a terminal, what has scrolled out of it left alone.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Whether to go on printing.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Watching {
    /// Print it again and again, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// How often, with --watch
    #[arg(long, value_name = "DURATION", default_value_t = HumanDuration(Duration::from_secs(2)))]
    every: HumanDuration,
    /// With --watch, end after so many times
    #[arg(long, value_name = "N", requires = "watch", hide = true)]
    times: Option<u64>,
}

impl Watching {
    /// Prints what `picture` gives: once, or until somebody ends it. A failure ends a
    /// single one; a watch shows it and goes on, since a relay may come back.
    pub(super) fn show(
        self,
        output: Output,
        mut picture: impl FnMut() -> Result<(String, Value), Failure>,
    ) -> Result<ExitCode, Failure> {
        if !self.watch {
            let (text, value) = picture()?;
            output.result(&text, &value);
            return Ok(ExitCode::SUCCESS);
        }
        let clears = output == Output::Text && std::io::stdout().is_terminal();
        let mut shown = 0;
        loop {
            let picture = picture();
            if clears {
                write!(std::io::stdout(), "{CLEAR}").ok();
            }
            match &picture {
                Ok((text, value)) => output.result(text, value),
                Err(failure) => output.failure(failure),
            }
            shown += 1;
            if self.times.is_some_and(|times| shown >= times) {
                return picture.map(|_| ExitCode::SUCCESS);
            }
            std::thread::sleep(self.every.0.max(Duration::from_millis(50)));
        }
    }
}
