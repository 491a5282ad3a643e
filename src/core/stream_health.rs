//! Whether a stream is in trouble, from how the calls to it end.
//!
//! For each kind of call there is at most one trouble at a time:
//! - A lasting kind (see [`TroubleKind`]) is trouble at its first failure, and
//!   until a call that began after the last failure succeeds.
//! - A passing kind is trouble once no call has succeeded for [`PASSING_GRACE`],
//!   and until one does: a service that answers every other call is slow, not in
//!   trouble.
//! - Trouble of the control plane (describe, list) is excused while records are
//!   stored: nobody is harmed. It counts again when puts fail too.
//! - An answered description of a stream that cannot be written to in order is
//!   trouble of its own.
//! - What lies between the relay and the service is over for puts as well once
//!   the control plane answers: an idle stream has no puts that could tell.

use std::collections::BTreeSet;
use std::time::Duration;

use super::classify::Action;
use super::ports::{CallFailure, RecordOutcome, StreamDescription};
use super::time::Moment;
use super::trouble::TroubleKind;

/// How long nothing may succeed before what may pass by itself is trouble. Longer
/// than the pauses between the first attempts (50 ms, doubling), and half of what
/// a call may take by default.
pub const PASSING_GRACE: Duration = Duration::from_secs(5);

/// A trouble of one kind of call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Which call meets it.
    pub action: Action,
    /// Its kind.
    pub kind: TroubleKind,
    /// What the first failure of this kind said, with what to do.
    pub reason: String,
}

/// How a call ended, as far as the stream's health goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended<'a> {
    /// It did what it should.
    Well,
    /// It says nothing of the stream: a full shard, a bad record.
    Neither,
    /// It was answered, and the service failed on each record it had room for.
    FailedRecords {
        /// The error code of one of them.
        code: &'a str,
        /// Its message.
        message: &'a str,
    },
    /// It was answered, and the stream cannot be used as it is.
    Unusable(TroubleKind),
    /// It failed.
    Badly(&'a CallFailure),
}

#[derive(Debug)]
struct Track {
    action: Action,
    trouble: Option<(TroubleKind, String)>,
    is_excused: bool,
    failing_since: Option<Moment>,
    last_failure: Moment,
}

/// The health of one stream.
#[derive(Debug)]
pub struct StreamHealth {
    describe: Track,
    list: Track,
    put: Track,
}

// === impl Ended ===

impl<'a> Ended<'a> {
    /// How a description ended.
    #[must_use]
    pub fn describe(result: &'a Result<StreamDescription, CallFailure>) -> Self {
        match result {
            Ok(description) if description.ignores_keys => Self::Unusable(TroubleKind::KeysIgnored),
            Ok(description) if !description.writable => {
                Self::Unusable(TroubleKind::StreamNotActive)
            }
            Ok(_) => Self::Well,
            Err(failure) => Self::Badly(failure),
        }
    }

    /// How a list of shards ended.
    #[must_use]
    pub const fn list<T>(result: &'a Result<T, CallFailure>) -> Self {
        match result {
            Ok(_) => Self::Well,
            Err(failure) => Self::Badly(failure),
        }
    }

    /// How a put ended: well if it stored anything.
    #[must_use]
    pub fn put(result: &'a Result<Vec<RecordOutcome>, CallFailure>) -> Self {
        let outcomes = match result {
            Ok(outcomes) => outcomes,
            Err(failure) => return Self::Badly(failure),
        };
        let mut ended = Self::Neither;
        for outcome in outcomes {
            match outcome {
                RecordOutcome::Stored { .. } => return Self::Well,
                RecordOutcome::Throttled => {}
                RecordOutcome::Failed { code, message } => {
                    ended = Self::FailedRecords { code, message };
                }
            }
        }
        ended
    }
}

// === impl Track ===

impl Track {
    const fn new(action: Action) -> Self {
        Self {
            action,
            trouble: None,
            is_excused: false,
            failing_since: None,
            last_failure: Moment::ORIGIN,
        }
    }

    fn kind(&self) -> Option<TroubleKind> {
        self.trouble.as_ref().map(|(kind, _)| *kind)
    }

    fn fails(&mut self, kind: TroubleKind, reason: &str, began: Moment, now: Moment) {
        let since = *self.failing_since.get_or_insert(began);
        self.last_failure = now;
        let is_trouble = !kind.is_passing() || now.since(since) >= PASSING_GRACE;
        if is_trouble && self.kind() != Some(kind) {
            self.trouble = Some((kind, reason.to_owned()));
            self.is_excused = false;
        }
    }

    fn succeeds(&mut self, began: Moment) {
        let is_over = match self.kind() {
            None => true,
            Some(kind) => kind.is_passing() || began >= self.last_failure,
        };
        if is_over {
            self.end();
        }
    }

    fn end(&mut self) {
        self.trouble = None;
        self.is_excused = false;
        self.failing_since = None;
    }

    fn shown(&self) -> Option<Trouble> {
        let (kind, reason) = self.trouble.clone().filter(|_| !self.is_excused)?;
        Some(Trouble {
            action: self.action,
            kind,
            reason,
        })
    }
}

// === impl StreamHealth ===

impl Default for StreamHealth {
    fn default() -> Self {
        Self {
            describe: Track::new(Action::DescribeStreamSummary),
            list: Track::new(Action::ListShards),
            put: Track::new(Action::PutRecords),
        }
    }
}

impl StreamHealth {
    /// A call that began then has ended now.
    pub fn note(&mut self, action: Action, ended: Ended<'_>, began: Moment, now: Moment) {
        let is_put = action == Action::PutRecords;
        match ended {
            Ended::Neither => {}
            Ended::Well => {
                self.track(action).succeeds(began);
                if is_put {
                    self.excuse_control_plane();
                } else {
                    self.control_plane_answers(began);
                }
            }
            Ended::FailedRecords { code, message } => {
                let kind = TroubleKind::ServiceFailure;
                let advice = kind.what_to_do();
                let reason = format!("every record failed with {code} ({message}); {advice}");
                self.track(action).fails(kind, &reason, began, now);
                self.describe.is_excused = false;
                self.list.is_excused = false;
            }
            Ended::Unusable(kind) => {
                let track = self.track(action);
                track.fails(kind, kind.what_to_do(), began, now);
            }
            Ended::Badly(failure) => {
                let Some(kind) = TroubleKind::of(failure) else {
                    return;
                };
                let track = self.track(action);
                track.fails(kind, &failure.to_string(), began, now);
                if is_put {
                    self.describe.is_excused = false;
                    self.list.is_excused = false;
                }
            }
        }
    }

    /// The troubles there are, puts first.
    #[must_use]
    pub fn troubles(&self) -> Vec<Trouble> {
        let tracks = [&self.put, &self.describe, &self.list];
        tracks.into_iter().filter_map(Track::shown).collect()
    }

    /// The kinds of trouble there are.
    #[must_use]
    pub fn kinds(&self) -> BTreeSet<TroubleKind> {
        self.troubles().iter().map(|trouble| trouble.kind).collect()
    }

    /// The trouble for which no record gets through, if there is any.
    #[must_use]
    pub fn stops_records(&self) -> Option<Trouble> {
        self.troubles().into_iter().find(|trouble| {
            trouble.action == Action::PutRecords || trouble.kind.concerns_every_call()
        })
    }

    fn excuse_control_plane(&mut self) {
        for track in [&mut self.describe, &mut self.list] {
            track.is_excused =
                track.trouble.is_some() && track.kind() != Some(TroubleKind::KeysIgnored);
        }
    }

    fn control_plane_answers(&mut self, began: Moment) {
        let is_over = self
            .put
            .kind()
            .is_some_and(|kind| kind.concerns_every_call() && began >= self.put.last_failure);
        if is_over {
            self.put.end();
        }
    }

    const fn track(&mut self, action: Action) -> &mut Track {
        match action {
            Action::DescribeStreamSummary => &mut self.describe,
            Action::ListShards => &mut self.list,
            Action::PutRecords => &mut self.put,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Action::{DescribeStreamSummary, PutRecords};

    fn at(seconds: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(seconds))
    }

    fn denied() -> CallFailure {
        CallFailure::Operator {
            code: "AccessDeniedException".to_owned(),
            message: "no".to_owned(),
        }
    }

    fn expired() -> CallFailure {
        CallFailure::Credentials {
            code: "ExpiredTokenException".to_owned(),
            message: "no".to_owned(),
        }
    }

    fn reset() -> CallFailure {
        CallFailure::Unknown {
            reason: "connection failed: reset".to_owned(),
        }
    }

    fn kinds(health: &StreamHealth) -> Vec<&'static str> {
        health.kinds().into_iter().map(TroubleKind::name).collect()
    }

    #[test]
    fn a_lasting_trouble_is_there_at_once_and_ends_with_a_newer_success() {
        let mut health = StreamHealth::default();
        health.note(PutRecords, Ended::Badly(&denied()), at(1), at(2));
        assert_eq!(kinds(&health), ["access_denied"]);
        // A call to another shard that began before says nothing.
        health.note(PutRecords, Ended::Well, at(1), at(3));
        assert_eq!(kinds(&health), ["access_denied"]);
        health.note(PutRecords, Ended::Neither, at(4), at(5));
        assert_eq!(kinds(&health), ["access_denied"]);
        health.note(PutRecords, Ended::Well, at(4), at(5));
        assert_eq!(kinds(&health), [""; 0]);
    }

    #[test]
    fn a_passing_trouble_is_there_when_nothing_succeeds_for_a_while() {
        let mut health = StreamHealth::default();
        for second in 0..20 {
            health.note(PutRecords, Ended::Badly(&reset()), at(second), at(second));
            health.note(PutRecords, Ended::Well, at(second), at(second));
        }
        assert_eq!(kinds(&health), [""; 0], "every other call succeeds");
        health.note(PutRecords, Ended::Badly(&reset()), at(20), at(20));
        health.note(PutRecords, Ended::Badly(&reset()), at(24), at(24));
        assert_eq!(kinds(&health), [""; 0]);
        health.note(PutRecords, Ended::Badly(&reset()), at(24), at(25));
        assert_eq!(kinds(&health), ["network"]);
        health.note(PutRecords, Ended::Well, at(24), at(26));
        assert_eq!(kinds(&health), [""; 0]);
        // One call that took the grace is enough.
        health.note(PutRecords, Ended::Badly(&reset()), at(30), at(40));
        assert_eq!(kinds(&health), ["network"]);
    }

    #[test]
    fn a_service_that_fails_on_every_record_is_trouble_after_a_while() {
        let mut health = StreamHealth::default();
        let failed = || RecordOutcome::Failed {
            code: "InternalFailure".to_owned(),
            message: "no".to_owned(),
        };
        let all_failed = Ok(vec![failed(), RecordOutcome::Throttled, failed()]);
        for second in 1..=4 {
            health.note(PutRecords, Ended::put(&all_failed), at(second), at(second));
        }
        assert_eq!(kinds(&health), [""; 0], "it may pass");
        health.note(PutRecords, Ended::put(&all_failed), at(6), at(7));
        assert_eq!(kinds(&health), ["service_failure"]);
        let reason = health.stops_records().expect("trouble").reason;
        assert!(reason.contains("InternalFailure"), "{reason}");
        let all_throttled = Ok(vec![RecordOutcome::Throttled]);
        health.note(PutRecords, Ended::put(&all_throttled), at(8), at(8));
        assert_eq!(kinds(&health), ["service_failure"]);
        health.note(PutRecords, Ended::Well, at(9), at(9));
        assert_eq!(kinds(&health), [""; 0]);
    }

    #[test]
    fn trouble_of_the_control_plane_is_excused_while_records_are_stored() {
        let mut health = StreamHealth::default();
        health.note(DescribeStreamSummary, Ended::Badly(&denied()), at(1), at(1));
        assert_eq!(kinds(&health), ["access_denied"]);
        assert_eq!(health.stops_records(), None, "puts may be allowed");
        health.note(PutRecords, Ended::Well, at(2), at(2));
        health.note(DescribeStreamSummary, Ended::Badly(&denied()), at(3), at(3));
        assert_eq!(kinds(&health), [""; 0]);
        health.note(PutRecords, Ended::Badly(&expired()), at(4), at(4));
        assert_eq!(kinds(&health), ["credentials_expired", "access_denied"]);
    }

    #[test]
    fn an_answer_of_the_control_plane_ends_what_lies_between() {
        let mut health = StreamHealth::default();
        health.note(PutRecords, Ended::Badly(&expired()), at(1), at(1));
        let stops = health.stops_records().expect("trouble");
        assert_eq!(stops.kind, TroubleKind::CredentialsExpired);
        health.note(DescribeStreamSummary, Ended::Well, at(2), at(2));
        assert_eq!(kinds(&health), [""; 0]);
        health.note(PutRecords, Ended::Badly(&denied()), at(3), at(3));
        health.note(DescribeStreamSummary, Ended::Well, at(4), at(4));
        assert_eq!(kinds(&health), ["access_denied"], "of puts alone");
    }

    #[test]
    fn keys_that_are_ignored_are_never_excused() {
        let mut health = StreamHealth::default();
        let ignored = Ended::Unusable(TroubleKind::KeysIgnored);
        health.note(DescribeStreamSummary, ignored, at(1), at(1));
        health.note(PutRecords, Ended::Well, at(2), at(2));
        assert_eq!(kinds(&health), ["keys_ignored"]);
        assert!(health.stops_records().is_some());
        health.note(DescribeStreamSummary, Ended::Well, at(3), at(3));
        assert_eq!(kinds(&health), [""; 0]);
    }
}
