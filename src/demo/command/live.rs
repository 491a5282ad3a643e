//! What the demo prints while it runs.

use std::io::{IsTerminal, Write};

use super::observer::LiveState;
use super::report::{Report, grouped};
use super::{DemoError, DemoOutput};

/// One bar per eighth.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Puts the cursor back to the beginning of an emptied line.
const REWRITE: &str = "\r\x1b[2K";

/// Prints to a terminal (one live line that changes) or to anything else (one line
/// after the other). A closed pipe is not an error.
#[derive(Debug)]
pub(super) struct Printer {
    output: DemoOutput,
    is_terminal: bool,
}

// === impl Printer ===

impl Printer {
    pub(super) fn new(output: DemoOutput) -> Self {
        let is_terminal = match output {
            DemoOutput::Text => std::io::stdout().is_terminal(),
            DemoOutput::Json => std::io::stderr().is_terminal(),
        };
        Self {
            output,
            is_terminal,
        }
    }

    /// Prints a line that stays.
    pub(super) fn line(&self, text: &str) {
        let rewrite = if self.is_terminal { REWRITE } else { "" };
        self.write(&format!("{rewrite}{text}\n"));
    }

    /// Shows how things are.
    pub(super) fn live(&self, state: &LiveState) {
        let line = live_line(state);
        if self.is_terminal {
            self.write(&format!("{REWRITE}{line}"));
        } else {
            self.write(&format!("{line}\n"));
        }
    }

    /// Prints the table and the line of JSON.
    pub(super) fn report(&self, report: &Report) {
        self.line("");
        self.line(&report.table());
        match serde_json::to_string(report) {
            Ok(json) => {
                writeln!(std::io::stdout(), "{json}").ok();
            }
            Err(error) => self.line(&format!("no JSON: {error}")),
        }
    }

    /// Says why there is no result.
    pub(super) fn error(&self, error: &DemoError) {
        let rewrite = if self.is_terminal { REWRITE } else { "" };
        writeln!(std::io::stderr(), "{rewrite}tidegate demo: {error}").ok();
        if self.output == DemoOutput::Json {
            let json = serde_json::json!({ "ok": false, "error": error.to_string() });
            writeln!(std::io::stdout(), "{json}").ok();
        }
    }

    fn write(&self, text: &str) {
        match self.output {
            DemoOutput::Text => {
                let mut out = std::io::stdout().lock();
                out.write_all(text.as_bytes())
                    .and_then(|()| out.flush())
                    .ok();
            }
            DemoOutput::Json => {
                std::io::stderr().write_all(text.as_bytes()).ok();
            }
        }
    }
}

fn live_line(state: &LiveState) -> String {
    let bars: String = state.utilisation.iter().map(|part| bar(*part)).collect();
    let percents: Vec<String> = state
        .utilisation
        .iter()
        .map(|part| format!("{:>3.0}", part * 100.0))
        .collect();
    format!(
        "{:>4} s  published {:>9}  delivered {:>9}  lag {:>7}  {bars} {} %",
        state.elapsed.as_secs(),
        grouped(state.published),
        grouped(state.delivered),
        grouped(state.published.saturating_sub(state.delivered)),
        percents.join(" ")
    )
}

/// The bar of a part, 0 to 1.
fn bar(part: f64) -> char {
    let full = BARS.iter().enumerate().rev().find(|(index, _)| {
        // A bar is full when its eighth is more than half used.
        part * 8.0 >= *index as f64 + 0.5
    });
    full.map_or(BARS[0], |(_, bar)| *bar)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_live_line_shows_bars_and_numbers() {
        let state = LiveState {
            elapsed: Duration::from_millis(12_300),
            published: 48_210,
            delivered: 44_876,
            utilisation: vec![0.0, 0.5, 0.98, 1.2],
        };
        assert_eq!(
            live_line(&state),
            "  12 s  published    48,210  delivered    44,876  lag   3,334  ▁▄██   0  50  98 120 %"
        );
    }
}
