//! What an operator has paused, and which pipelines that holds.
//!
//! Rules:
//! - a pause is of a name: of a pipeline, a tenant or a stream. A pipeline runs
//!   when no pause holds it, so ending one of two changes nothing;
//! - a stream is paused by its name, which means every stream of that name, or by
//!   its ARN. An ARN holds the pipelines that give the same one, and those that give
//!   the name and are in its region: whose account that is only the service knows,
//!   and one pipeline too many that waits does less harm than one too few.
//!
//! `tide.pauses_of()` says the same in SQL, as far as a definition tells.

use std::fmt;

/// What is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PauseKind {
    /// One pipeline.
    Pipeline,
    /// All pipelines of a tenant.
    Tenant,
    /// All pipelines that write to a stream.
    Stream,
}

/// A pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Of what.
    pub kind: PauseKind,
    /// Its name; of a stream also its ARN.
    pub name: String,
    /// Why, as the operator said; may be empty.
    pub reason: String,
    /// The database role that paused it.
    pub by: String,
    /// When, as the database prints it.
    pub at: String,
}

/// A pipeline as far as pauses look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pausable<'a> {
    /// Its name.
    pub pipeline: &'a str,
    /// Its tenant.
    pub tenant: &'a str,
    /// The name of its stream.
    pub stream: &'a str,
    /// The ARN of its stream, if its definition gives that.
    pub arn: Option<&'a str>,
    /// The region of its stream, if that is known.
    pub region: Option<&'a str>,
}

/// Tells two states of a database's pauses apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PausesVersion {
    /// How many there are.
    pub count: i64,
    /// The sum of their versions, a number of any size.
    pub sum: String,
}

/// The pauses of a database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pauses {
    /// All of them.
    pub list: Vec<Pause>,
    /// Which state of the database that is.
    pub version: PausesVersion,
}

// === impl PauseKind ===

impl PauseKind {
    /// Its name, as the database writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pipeline => "pipeline",
            Self::Tenant => "tenant",
            Self::Stream => "stream",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Pipeline, Self::Tenant, Self::Stream]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

// === impl Pause ===

impl Pause {
    /// Whether it holds a pipeline.
    #[must_use]
    pub fn holds(&self, pipeline: &Pausable<'_>) -> bool {
        match self.kind {
            PauseKind::Pipeline => self.name == pipeline.pipeline,
            PauseKind::Tenant => self.name == pipeline.tenant,
            PauseKind::Stream => self.holds_stream(pipeline),
        }
    }

    fn holds_stream(&self, pipeline: &Pausable<'_>) -> bool {
        let Some((region, name)) = arn_parts(&self.name) else {
            return self.name == pipeline.stream;
        };
        match pipeline.arn {
            Some(arn) => self.name == arn,
            None => name == pipeline.stream && pipeline.region.is_none_or(|known| known == region),
        }
    }
}

/// Region and stream of an ARN.
fn arn_parts(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix("arn:")?;
    let region = rest.split(':').nth(2)?;
    let name = rest.rsplit('/').next()?;
    Some((region, name))
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, by, at, .. } = self;
        write!(
            f,
            "{} {name} is paused by {by} since {at}",
            self.kind.name()
        )?;
        if !self.reason.is_empty() {
            write!(f, ": {}", self.reason)?;
        }
        Ok(())
    }
}

// === impl Pauses ===

impl Default for PausesVersion {
    /// Nothing is paused.
    fn default() -> Self {
        Self {
            count: 0,
            sum: "0".to_owned(),
        }
    }
}

impl Pauses {
    /// Why a pipeline is paused, if it is: all pauses that hold it.
    #[must_use]
    pub fn why(&self, pipeline: &Pausable<'_>) -> Option<String> {
        let holding = self.list.iter().filter(|pause| pause.holds(pipeline));
        let reasons: Vec<String> = holding.map(ToString::to_string).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders";
    const OTHER_ACCOUNT: &str = "arn:aws:kinesis:eu-west-1:999999999999:stream/orders";

    const PIPELINE: Pausable<'_> = Pausable {
        pipeline: "p",
        tenant: "acme",
        stream: "orders",
        arn: None,
        region: Some("eu-west-1"),
    };

    fn pause(kind: PauseKind, name: &str) -> Pause {
        Pause {
            kind,
            name: name.to_owned(),
            reason: String::new(),
            by: "alice".to_owned(),
            at: "noon".to_owned(),
        }
    }

    #[track_caller]
    fn assert_holds(kind: PauseKind, name: &str, pipeline: &Pausable<'_>, expected: bool) {
        assert_eq!(
            pause(kind, name).holds(pipeline),
            expected,
            "{kind:?} {name} {pipeline:?}"
        );
    }

    #[test]
    fn a_pause_holds_what_it_names() {
        let kinds = [
            (PauseKind::Pipeline, "p"),
            (PauseKind::Tenant, "acme"),
            (PauseKind::Stream, "orders"),
        ];
        for (place, (kind, _)) in kinds.iter().enumerate() {
            for (other, (_, name)) in kinds.iter().enumerate() {
                assert_holds(*kind, name, &PIPELINE, place == other);
            }
            assert_eq!(PauseKind::of_name(kind.name()), Some(*kind));
        }
        assert_eq!(PauseKind::of_name("table"), None);
    }

    #[test]
    fn a_stream_is_paused_by_name_or_by_arn() {
        let by_arn = Pausable {
            arn: Some(ARN),
            ..PIPELINE
        };
        let elsewhere = Pausable {
            region: Some("us-east-1"),
            ..PIPELINE
        };
        let somewhere = Pausable {
            region: None,
            ..PIPELINE
        };
        let another = Pausable {
            stream: "payments",
            ..PIPELINE
        };
        let stream = PauseKind::Stream;
        assert_holds(stream, "orders", &by_arn, true);
        assert_holds(stream, "orders", &elsewhere, true);
        assert_holds(stream, ARN, &by_arn, true);
        assert_holds(stream, OTHER_ACCOUNT, &by_arn, false);
        assert_holds(stream, OTHER_ACCOUNT, &PIPELINE, true);
        assert_holds(stream, ARN, &PIPELINE, true);
        assert_holds(stream, ARN, &elsewhere, false);
        assert_holds(stream, ARN, &somewhere, true);
        assert_holds(stream, ARN, &another, false);
    }

    #[test]
    fn every_pause_that_holds_is_named() {
        let mut because = pause(PauseKind::Tenant, "acme");
        because.reason = "bill unpaid".to_owned();
        let pauses = Pauses {
            list: vec![
                pause(PauseKind::Pipeline, "q"),
                pause(PauseKind::Pipeline, "p"),
                because,
            ],
            version: PausesVersion::default(),
        };
        assert_eq!(
            pauses.why(&PIPELINE).as_deref(),
            Some(
                "pipeline p is paused by alice since noon; \
                 tenant acme is paused by alice since noon: bill unpaid"
            )
        );
        assert_eq!(Pauses::default().why(&PIPELINE), None);
    }
}
