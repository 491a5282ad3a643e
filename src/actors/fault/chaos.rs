//! Panics at random, for tests of the whole relay.

use std::time::Duration;

use tokio::time::Instant;

/// The actors that are struck unless others are named.
const ALL: [&str; 6] = [
    "outbox_reader",
    "stream_router",
    "shard_writer",
    "probe",
    "retention",
    "supervisor",
];

/// Strikes a random actor in every period.
pub(super) struct Chaos {
    every: Duration,
    end: Option<Instant>,
    /// Kinds of actors, or `kind/whose`, and how often each was struck.
    targets: Vec<(String, u32)>,
    last: Instant,
    /// Who is next, and for which of the periods since the last strike: one that
    /// does nothing in a period is left alone.
    next: Option<(u32, usize)>,
}

impl Chaos {
    /// `every[:lasts[:targets]]`, in milliseconds.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let every = Duration::from_millis(parts.next()?.parse().ok()?);
        let lasts = parts.next().and_then(|lasts| lasts.parse().ok());
        let now = Instant::now();
        let new = |target: &str| (target.to_owned(), 0);
        let targets = match parts.next() {
            Some(targets) => targets.split(',').map(new).collect(),
            None => ALL.map(new).into(),
        };
        Some(Self {
            every,
            end: lasts.map(|lasts| now + Duration::from_millis(lasts)),
            targets,
            last: now,
            next: None,
        })
    }

    /// Whether this actor, which passes a point just now, panics there.
    pub(super) fn strikes(&mut self, actor: &str, whose: Option<&str>) -> bool {
        let now = Instant::now();
        let since = now - self.last;
        if since < self.every || self.end.is_some_and(|end| now >= end) {
            return false;
        }
        let period = u32::try_from(since.as_millis() / self.every.as_millis().max(1));
        let period = period.unwrap_or(u32::MAX);
        let next = match self.next {
            Some((chosen_in, next)) if chosen_in == period => next,
            Some(_) => fastrand::usize(..self.targets.len()),
            None => self.seldom_struck(),
        };
        self.next = Some((period, next));
        let (target, struck) = &mut self.targets[next];
        let is_it = match (target.split_once('/'), whose) {
            (None, None) => target == actor,
            (Some((kind, of)), Some(whose)) => kind == actor && of == whose,
            (None, Some(_)) | (Some(_), None) => false,
        };
        if is_it {
            *struck += 1;
            self.last = now;
            self.next = None;
        }
        is_it
    }

    /// One of those that were struck least often.
    fn seldom_struck(&self) -> usize {
        let least = self.targets.iter().map(|(_, struck)| *struck).min();
        let all = self.targets.iter().enumerate();
        let seldom: Vec<usize> = all
            .filter(|(_, (_, struck))| Some(*struck) == least)
            .map(|(place, _)| place)
            .collect();
        seldom[fastrand::usize(..seldom.len())]
    }
}
