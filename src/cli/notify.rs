//! Telling systemd how the process stands (`sd_notify`).
//!
//! Where no service manager asked for it (no `NOTIFY_SOCKET`), nothing is sent.
//! One call is one datagram. A process that is stopping says so once and last of
//! its states: a reload that was under way must not make it look ready again.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

/// A service manager that does not read must not hold the relay.
const SEND_WITHIN: Duration = Duration::from_secs(1);

/// Where states are sent.
#[derive(Debug, Clone)]
pub(super) struct Notifier(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: Option<OsString>,
    is_stopping: AtomicBool,
}

impl Notifier {
    /// Sends where the service manager asked for.
    pub(super) fn from_environment() -> Self {
        Self::to(std::env::var_os("NOTIFY_SOCKET"))
    }

    fn to(address: Option<OsString>) -> Self {
        Self(Arc::new(Inner {
            address: address.filter(|address| !address.is_empty()),
            is_stopping: AtomicBool::new(false),
        }))
    }

    /// It has started, or has done what a reload asked for.
    pub(super) fn ready(&self) {
        self.unless_stopping(&[NotifyState::Ready]);
    }

    /// It begins to reload its configuration. [`Self::ready`] ends it, whether the
    /// new configuration was taken or refused.
    pub(super) fn reloading(&self) {
        // systemd tells this reload from an earlier one by the time.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.unless_stopping(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "no clock for the service manager"),
        }
    }

    /// It ends, within so long: systemd waits for that, however short its own
    /// `TimeoutStopSec=`.
    pub(super) fn stopping(&self, status: &str, within: Duration) {
        self.0.is_stopping.store(true, Ordering::Relaxed);
        let within = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
        self.send(&[
            NotifyState::Stopping,
            NotifyState::ExtendTimeoutUsec(within),
            NotifyState::Status(&one_line(status)),
        ]);
    }

    /// What it is doing, for people: `systemctl status` shows it.
    pub(super) fn status(&self, status: &str) {
        self.unless_stopping(&[NotifyState::Status(&one_line(status))]);
    }

    /// It makes progress.
    pub(super) fn watchdog(&self) {
        self.send(&[NotifyState::Watchdog]);
    }

    fn unless_stopping(&self, states: &[NotifyState<'_>]) {
        if !self.0.is_stopping.load(Ordering::Relaxed) {
            self.send(states);
        }
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        let Some(address) = &self.0.address else {
            return;
        };
        if let Err(error) = send(address, states) {
            tracing::warn!(?address, %error, "the service manager was not told how the relay stands");
        }
    }
}

fn send(address: &OsStr, states: &[NotifyState<'_>]) -> io::Result<()> {
    let mut datagram = String::new();
    for state in states {
        writeln!(datagram, "{state}").map_err(io::Error::other)?;
    }
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_WITHIN))?;
    socket.connect_addr(&parse(address)?)?;
    socket.send(datagram.as_bytes())?;
    Ok(())
}

/// A path, or an abstract name behind `@`.
fn parse(address: &OsStr) -> io::Result<SocketAddr> {
    match address.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => {
            use std::os::linux::net::SocketAddrExt;
            SocketAddr::from_abstract_name(name)
        }
        _ => SocketAddr::from_pathname(Path::new(address)),
    }
}

/// A line break would end the state.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    /// A socket that needs no file: tests of the program use one with a path.
    fn receiver(test: &str) -> (UnixDatagram, Notifier) {
        let name = format!("tidegate-{test}-{}", std::process::id());
        let address = OsString::from(format!("@{name}"));
        let bound = parse(&address).expect("a name");
        let socket = UnixDatagram::bind_addr(&bound).expect("a socket");
        (socket, Notifier::to(Some(address)))
    }

    #[track_caller]
    fn received(socket: &UnixDatagram) -> Option<String> {
        socket.set_nonblocking(true).expect("set");
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    #[test]
    fn one_call_is_one_datagram() {
        let (socket, notifier) = receiver("calls");
        notifier.ready();
        assert_eq!(received(&socket).as_deref(), Some("READY=1\n"));
        notifier.status("two\nlines");
        assert_eq!(received(&socket).as_deref(), Some("STATUS=two lines\n"));
        notifier.watchdog();
        assert_eq!(received(&socket).as_deref(), Some("WATCHDOG=1\n"));
        notifier.stopping("drains", Duration::from_secs(25));
        assert_eq!(
            received(&socket).as_deref(),
            Some("STOPPING=1\nEXTEND_TIMEOUT_USEC=25000000\nSTATUS=drains\n")
        );
        assert_eq!(received(&socket), None);
    }

    #[test]
    fn a_reload_says_when_it_began() {
        let (socket, notifier) = receiver("reload");
        let times = [(); 2].map(|()| {
            notifier.reloading();
            let text = received(&socket).expect("a datagram");
            let time = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
            let time = time.expect("a reload").trim_end().to_owned();
            time.parse::<u64>().expect("microseconds")
        });
        assert!(times[0] > 0 && times[1] >= times[0], "{times:?}");
    }

    #[test]
    fn what_is_stopping_is_not_ready_again() {
        let (socket, notifier) = receiver("stopping");
        notifier.reloading();
        notifier.stopping("drains", Duration::ZERO);
        notifier.ready();
        notifier.reloading();
        notifier.status("relays");
        received(&socket).expect("the reload");
        assert!(received(&socket).is_some_and(|text| text.starts_with("STOPPING=1\n")));
        assert_eq!(received(&socket), None);
    }

    #[test]
    fn nobody_asked_and_nobody_there_are_no_failures() {
        Notifier::to(None).ready();
        Notifier::to(Some(OsString::new())).ready();
        Notifier::to(Some("/nowhere/notify".into())).ready();
    }
}
