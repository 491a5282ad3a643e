//! What happened in a run, in order: as one number always, as text on demand.
//!
//! Two runs of one seed must have the same number; if they do not, something in
//! the relay or in the model depends on more than the seed.

use std::fmt::{self, Write};
use std::time::Duration;

/// FNV-1a, 64 bits: small, and the same everywhere.
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

struct Fnv(u64);

impl Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(PRIME);
        }
        Ok(())
    }
}

/// The trace of one run.
pub(crate) struct Trace {
    hash: Fnv,
    events: u64,
    shown: Option<Vec<String>>,
}

impl Trace {
    pub(crate) fn new(keep_text: bool) -> Self {
        Self {
            hash: Fnv(OFFSET),
            events: 0,
            shown: keep_text.then(Vec::new),
        }
    }

    pub(crate) fn note(&mut self, at: Duration, what: fmt::Arguments<'_>) {
        self.events += 1;
        write!(self.hash, "{}", at.as_nanos()).expect("a hash takes all");
        self.hash.write_fmt(what).expect("a hash takes all");
        if let Some(shown) = &mut self.shown {
            shown.push(format!("{:10.4}s  {what}", at.as_secs_f64()));
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.hash.0
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn text(&self) -> String {
        self.shown
            .as_ref()
            .map_or_else(String::new, |lines| lines.join("\n"))
    }
}
