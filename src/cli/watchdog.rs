//! What the service manager is told while the relay runs: that it has started,
//! what it does, and that it makes progress.
//!
//! `WATCHDOG=1` goes out only when the supervisor has shown a sign of life since
//! the last one. A timer alone would keep a stuck relay alive for ever.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::notify::Notifier;
use crate::admin::status::{Phase, StatusBoard};

/// The part of the service manager's patience after which it is told again.
const PARTS: u32 = 3;

/// How often the status line is brought up to date.
const STATUS_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Watchdog {
    notifier: Notifier,
    is_ready: bool,
    /// How often to show progress, if anybody asked for it.
    every: Option<Duration>,
    told_at: Option<Instant>,
    /// The supervisor's last sign of life that was passed on.
    told_beat: Duration,
    status_at: Option<Instant>,
    status: String,
}

impl Watchdog {
    pub(super) fn new(notifier: Notifier) -> Self {
        Self {
            notifier,
            is_ready: false,
            every: sd_notify::watchdog_enabled().map(|patience| patience / PARTS),
            told_at: None,
            told_beat: Duration::ZERO,
            status_at: None,
            status: String::new(),
        }
    }

    /// Looks at the board and says what is to be said.
    pub(super) fn look(&mut self, board: &StatusBoard) {
        self.say_ready(board);
        self.show_progress(board);
        self.say_status(board);
    }

    fn say_ready(&mut self, board: &StatusBoard) {
        if !self.is_ready && board.phase() == Phase::Started {
            self.is_ready = true;
            self.notifier.ready();
        }
    }

    fn show_progress(&mut self, board: &StatusBoard) {
        let Some(every) = self.every else {
            return;
        };
        let is_time = self.told_at.is_none_or(|at| at.elapsed() >= every);
        let beat = board.last_beat();
        if is_time && beat > self.told_beat {
            self.told_at = Some(Instant::now());
            self.told_beat = beat;
            self.notifier.watchdog();
        }
    }

    fn say_status(&mut self, board: &StatusBoard) {
        let is_time = self.status_at.is_none_or(|at| at.elapsed() >= STATUS_EVERY);
        if !self.is_ready || !is_time {
            return;
        }
        self.status_at = Some(Instant::now());
        let status = line(&board.pipeline_states());
        if status != self.status {
            self.notifier.status(&status);
            self.status = status;
        }
    }
}

/// Such as "5 pipelines: 4 running, 1 waiting".
fn line(states: &BTreeMap<&'static str, usize>) -> String {
    let all: usize = states.values().sum();
    let of_each: Vec<String> = states
        .iter()
        .map(|(state, pipelines)| format!("{pipelines} {state}"))
        .collect();
    match all {
        0 => "no pipelines".to_owned(),
        1 => format!("1 pipeline: {}", of_each.join(", ")),
        _ => format!("{all} pipelines: {}", of_each.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_counts_pipelines_by_state() {
        assert_eq!(line(&BTreeMap::new()), "no pipelines");
        assert_eq!(
            line(&BTreeMap::from([("running", 1)])),
            "1 pipeline: 1 running"
        );
        assert_eq!(
            line(&BTreeMap::from([("waiting", 1), ("running", 4)])),
            "5 pipelines: 4 running, 1 waiting"
        );
    }
}
