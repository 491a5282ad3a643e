//! Signals, heard on a thread of their own, and what must work even when the
//! supervisor does not.
//!
//! | signal | what follows |
//! |---|---|
//! | SIGTERM, SIGINT | `/readyz` answers 503, then systemd is told, then the relay is asked to drain |
//! | a second one | the process exits at once, with 1: what is in flight will be sent again |
//! | SIGHUP | the relay is asked to reload; while it drains there is nothing to reload for |
//!
//! The thread begins before the configuration is read, so that no signal ends the
//! process by the system's default while it starts. What is heard before anybody
//! can act on it is kept.
//!
//! On the same thread the service manager is told of progress (see
//! [`super::watchdog`]), and a drain is ended whose supervisor shows no sign of
//! life: nobody else would see that its grace is over.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::notify::Notifier;
use super::watchdog::Watchdog;
use super::{FAILED, Failure};
use crate::admin::server::LIVE_WITHIN;
use crate::admin::status::{Phase, StatusBoard};

/// How often the thread looks at the board.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// To end in order.
    End,
    /// To read the configuration again.
    Reload,
}

/// What has been asked for.
#[derive(Debug)]
pub(super) struct Signals {
    asked: mpsc::UnboundedReceiver<Asked>,
    attend: Option<oneshot::Sender<Attended>>,
}

/// What the thread acts on by itself.
#[derive(Debug)]
pub(super) struct Attended {
    pub(super) board: Arc<StatusBoard>,
    pub(super) notifier: Notifier,
    /// The longest a drain takes while the supervisor lives.
    pub(super) drains_within: DrainsWithin,
}

/// A time that a reload may change.
#[derive(Debug, Clone)]
pub(super) struct DrainsWithin(Arc<AtomicU64>);

impl DrainsWithin {
    pub(super) fn new(duration: Duration) -> Self {
        let within = Self(Arc::default());
        within.set(duration);
        within
    }

    pub(super) fn set(&self, duration: Duration) {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.0.store(millis, Ordering::Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

struct Heard {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

struct Listener {
    heard: Heard,
    to: mpsc::UnboundedSender<Asked>,
    attended: Option<(Attended, Watchdog)>,
    is_ending: bool,
}

// === impl Signals ===

impl Signals {
    /// Hears signals from now on.
    pub(super) fn listen() -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::Failed(format!("no signal handler: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let heard = {
            let _inside = runtime.enter();
            Heard::listen().map_err(failed)?
        };
        let (to, asked) = mpsc::unbounded_channel();
        let (attend, attended) = oneshot::channel();
        let listener = Listener {
            heard,
            to,
            attended: None,
            is_ending: false,
        };
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(listener.run(attended)))
            .map_err(failed)?;
        Ok(Self {
            asked,
            attend: Some(attend),
        })
    }

    /// Lets the thread act on a board by itself. What it has heard so far counts.
    pub(super) fn attend(&mut self, attended: Attended) {
        if let Some(attend) = self.attend.take()
            && attend.send(attended).is_err()
        {
            tracing::error!("the thread that hears signals has ended");
        }
    }

    /// The next thing that is asked for: an end is asked for once.
    pub(super) async fn next(&mut self) -> Asked {
        match self.asked.recv().await {
            Some(asked) => asked,
            // The thread lives as long as the process.
            None => std::future::pending().await,
        }
    }
}

// === impl Heard ===

impl Heard {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }
}

// === impl Listener ===

impl Listener {
    async fn run(mut self, mut attended: oneshot::Receiver<Attended>) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                asked = self.heard.next() => self.pass_on(asked),
                attended = &mut attended, if self.attended.is_none() => match attended {
                    Ok(attended) => self.attend(attended),
                    // Nothing has been started: the process ends.
                    Err(_) => return,
                },
                _ = look.tick() => self.look(),
            }
        }
    }

    fn attend(&mut self, attended: Attended) {
        let watchdog = Watchdog::new(attended.notifier.clone());
        if self.is_ending {
            attended.begin_drain();
        }
        self.attended = Some((attended, watchdog));
    }

    fn pass_on(&mut self, asked: Asked) {
        match asked {
            Asked::End if self.is_ending => {
                tracing::warn!("a second signal: exits at once; rows in flight will be sent again");
                exit();
            }
            Asked::End => {
                self.is_ending = true;
                // Nobody is to be sent here any more, before anything else changes.
                if let Some((attended, _)) = &self.attended {
                    attended.begin_drain();
                }
            }
            Asked::Reload if self.is_ending => {
                tracing::info!("SIGHUP while the relay ends: nothing is reloaded");
                return;
            }
            Asked::Reload => {}
        }
        if self.to.send(asked).is_err() {
            tracing::debug!("nobody waits for signals any more");
        }
    }

    fn look(&mut self) {
        let Some((attended, watchdog)) = &mut self.attended else {
            return;
        };
        watchdog.look(&attended.board);
        let silent_for = attended.board.heartbeat_age();
        if self.is_ending && silent_for >= LIVE_WITHIN {
            tracing::error!(
                ?silent_for,
                "the supervisor shows no sign of life and cannot drain: exits at once; \
                 rows in flight will be sent again"
            );
            exit();
        }
    }
}

impl Attended {
    fn begin_drain(&self) {
        self.board.set_phase(Phase::Draining);
        self.notifier
            .stopping("draining", self.drains_within.get() + LIVE_WITHIN);
    }
}

/// Without waiting for anybody: a thread that is stuck must not hold the process.
fn exit() -> ! {
    std::process::exit(FAILED.into())
}
