//! Structured logs to standard error, as text or JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::Failure;
use crate::config::settings::{LogFormat, LogSettings};

/// Starts logging, and has panics logged too.
pub(super) fn start(settings: &LogSettings) -> Result<(), Failure> {
    let wrong = |error: &dyn std::fmt::Display| {
        Failure::Failed(format!("log.filter {:?}: {error}", settings.filter))
    };
    let filter = EnvFilter::try_new(&settings.filter).map_err(|error| wrong(&error))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let started = match settings.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| wrong(&error))?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("a panic without a text");
        tracing::error!(place, panic = text, "panic");
    }));
    Ok(())
}
