//! What stands in for the signs of life of a reader that has nothing to do.
//!
//! Such a reader *rests*: it has no timer and is sent no message. Whoever may end its
//! wait vouches for it in its place: the probe holds its pledge and leaves word of
//! each look ([`Heard`]), and its stream takes records. The supervisor looks once a
//! second whether that is still so, and tells a reader of which it is not
//! ([`LookAtYourself`](super::messages::LookAtYourself)): that looks at itself again
//! once a second, and says what it finds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::stream_watch::StreamWatch;
use crate::core::snapshot::Snapshot;
use crate::core::time::Moment;

/// How long the probe's word holds, which it gives once a second.
const BELIEVED_FOR: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
struct Word {
    /// When the probe looked last.
    at: Option<Moment>,
    /// Up to where there was nothing new, until it is taken.
    nothing_new: Option<(Snapshot, Moment)>,
}

/// Where the probe leaves word for one reader that there is nothing new.
#[derive(Debug, Default)]
pub struct Heard(Mutex<Word>);

impl Heard {
    /// There was nothing new at a snapshot, which was taken at that time. Answers
    /// whether this is the first word.
    pub fn nothing_new(&self, snapshot: Snapshot, taken_at: Moment) -> bool {
        let mut word = self.word();
        word.nothing_new = Some((snapshot, taken_at));
        word.at.replace(taken_at).is_none()
    }

    /// The last word that has not been taken.
    #[must_use]
    pub fn take(&self) -> Option<(Snapshot, Moment)> {
        self.word().nothing_new.take()
    }

    /// Whether word was left of late.
    #[must_use]
    pub fn is_fresh(&self, now: Moment) -> bool {
        let at = self.word().at;
        at.is_some_and(|at| now.since(at) < BELIEVED_FOR)
    }

    // A panic while it was locked leaves at worst an old word.
    fn word(&self) -> MutexGuard<'_, Word> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who vouches for a reader that rests.
#[derive(Debug)]
pub struct Rest {
    /// Held by the probe until it told of news.
    pub pledge: Weak<()>,
    /// What the probe says meanwhile.
    pub heard: Arc<Heard>,
    /// Where the reader's rows would go.
    pub stream: Arc<StreamWatch>,
}

impl Rest {
    /// Whether they still do.
    #[must_use]
    pub fn holds(&self, now: Moment) -> bool {
        self.pledge.strong_count() > 0
            && self.heard.is_fresh(now)
            && self.stream.keeps_waiting().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn word_is_taken_once_and_believed_for_three_seconds() {
        let heard = Heard::default();
        assert!(!heard.is_fresh(at(7)), "nothing was said");
        assert_eq!(heard.take(), None);
        let snapshot: Snapshot = "5:9:6".parse().expect("a snapshot");
        assert!(heard.nothing_new(Snapshot::nothing(), at(7)), "the first");
        assert!(!heard.nothing_new(snapshot.clone(), at(8)));
        assert_eq!(heard.take(), Some((snapshot, at(8))));
        assert_eq!(heard.take(), None);
        assert!(heard.is_fresh(at(10)), "taken, and still believed");
        assert!(!heard.is_fresh(at(11)));
    }
}
