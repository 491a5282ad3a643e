//! How far long work has come, for a person who waits at a terminal.
//!
//! Shown on standard error, on a terminal alone, and not with `--output json`: a log or
//! a script gets nothing of it. It is gone when the work is done; what came of that is
//! printed as ever.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Output;

/// How often it moves by itself, so that it is seen to be alive.
const TICK: Duration = Duration::from_millis(120);

/// What is shown, if anybody sees it. It vanishes when it is dropped.
#[derive(Debug)]
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    /// For work of a known length.
    pub(super) fn bar(output: Output, length: u64, what: &str) -> Self {
        let template = "{spinner} {prefix} [{bar:30}] {percent:>3} %  {msg}  {elapsed}, {eta} left";
        Self::new(output, ProgressBar::new(length), template, what)
    }

    /// For work that says nothing of its length.
    pub(super) fn spinner(output: Output, what: &str) -> Self {
        let template = "{spinner} {prefix}  {msg}  {elapsed}";
        Self::new(output, ProgressBar::new_spinner(), template, what)
    }

    fn new(output: Output, bar: ProgressBar, template: &str, what: &str) -> Self {
        if output != Output::Text || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        // A template that is not understood leaves the plain bar.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(TICK);
        Self(Some(bar))
    }

    /// Whether anybody sees it.
    pub(super) const fn is_shown(&self) -> bool {
        self.0.is_some()
    }

    /// The work is over.
    pub(super) fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }

    /// It has come so far.
    pub(super) fn at(&self, position: u64, message: String) {
        if let Some(bar) = &self.0 {
            bar.set_position(position);
            bar.set_message(message);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
