//! Structured logs to standard error, as text or JSON.
//!
//! Rule: no filter makes the log show a secret. The libraries beneath (the AWS SDK
//! with its signer, HTTP) print credentials and headers at level TRACE and only
//! there, so of them nothing of that level is ever logged.

use std::fmt;
use std::io::IsTerminal;
use std::sync::Arc;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::Failure;
use crate::config::settings::{LogFormat, LogSettings};

/// Which events are logged: the directives of `log.filter`.
#[derive(Debug)]
pub(super) struct Filter(EnvFilter);

/// The log of the process, whose filter may change.
#[derive(Clone)]
pub(super) struct Log(Arc<dyn Fn(EnvFilter) + Send + Sync>);

impl Filter {
    /// Reads `log.filter`.
    pub(super) fn new(settings: &LogSettings) -> Result<Self, Failure> {
        let filter = EnvFilter::try_new(&settings.filter);
        filter.map(Self).map_err(|error| {
            Failure::Failed(format!(
                "log.filter: got {:?} ({error}); expected directives such as \"info,tidegate=debug\"",
                settings.filter
            ))
        })
    }
}

impl Log {
    /// From now on these events are logged.
    pub(super) fn set(&self, filter: Filter) {
        (self.0)(filter.0);
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

/// Whether an event may be logged at all, whatever the filter says.
fn may_be_shown(event: &Metadata<'_>) -> bool {
    *event.level() != Level::TRACE || event.target().starts_with("tidegate")
}

/// Starts logging, and has panics logged too.
pub(super) fn start(settings: &LogSettings) -> Result<Log, Failure> {
    let Filter(filter) = Filter::new(settings)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Fails only when nothing logs any more.
    let (log, started) = match settings.format {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            let set: Arc<dyn Fn(EnvFilter) + Send + Sync> =
                Arc::new(move |filter| drop(handle.reload(filter)));
            let log = builder.finish().with(filter_fn(may_be_shown));
            (set, log.try_init())
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            let set: Arc<dyn Fn(EnvFilter) + Send + Sync> =
                Arc::new(move |filter| drop(handle.reload(filter)));
            let log = builder.finish().with(filter_fn(may_be_shown));
            (set, log.try_init())
        }
    };
    started.map_err(|error| Failure::Failed(format!("log: {error}")))?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("a panic without a text");
        tracing::error!(place, panic = text, "panic");
    }));
    Ok(Log(log))
}
