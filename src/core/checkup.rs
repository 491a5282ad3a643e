//! What `tidegate doctor` makes of what it finds: one line per check, good or not,
//! each line that is not with what mends it.
//!
//! Rules:
//! - *fail*: something does not work, or will not when the relay runs. *warn*: it
//!   works, and somebody should look. *skip*: it could not be looked at, and why; a
//!   thing that was not looked at is never called good;
//! - a check that cannot be made says so for itself and stops no other one;
//! - every warn and fail has a fix: a command, a statement, or the setting to change.
//!
//! The facts come from outside ([`crate::postgres`], [`crate::kinesis`]); here they
//! are judged.

pub mod capacity;
pub mod clock;
pub mod database;
pub mod nodes;
pub mod stream;

/// How bad it is. The order is that of badness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// As it should be.
    Ok,
    /// It could not be looked at.
    Skip,
    /// It works; somebody should look.
    Warn,
    /// It does not work, or will not when the relay runs.
    Fail,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The check: one word, the same in every version.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// What mends it: always there for [`Level::Warn`] and [`Level::Fail`].
    pub fix: Option<String>,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A database of the settings.
    Database,
    /// Credentials, as pipelines share them.
    Credentials,
    /// A stream that pipelines write to.
    Stream,
    /// All pipelines together.
    Pipelines,
}

/// All findings about one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// What kind of thing.
    pub subject: Subject,
    /// Its name.
    pub name: String,
    /// What was found, in the order of the checks.
    pub findings: Vec<Finding>,
}

// === impl Level ===

impl Level {
    /// Its name, as it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skip => "skip",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

// === impl Finding ===

impl Finding {
    /// It is as it should be.
    #[must_use]
    pub fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, message.into(), None)
    }

    /// It was not looked at, and why.
    #[must_use]
    pub fn skip(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Level::Skip, message.into(), None)
    }

    /// It works, and somebody should look.
    #[must_use]
    pub fn warn(check: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(check, Level::Warn, message.into(), Some(fix.into()))
    }

    /// It does not work.
    #[must_use]
    pub fn fail(check: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(check, Level::Fail, message.into(), Some(fix.into()))
    }

    /// The same with what to do, should it matter.
    #[must_use]
    pub fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    const fn new(check: &'static str, level: Level, message: String, fix: Option<String>) -> Self {
        Self {
            check,
            level,
            message,
            fix,
        }
    }
}

// === impl Subject ===

impl Subject {
    /// Its name, as it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Credentials => "credentials",
            Self::Stream => "stream",
            Self::Pipelines => "pipelines",
        }
    }
}

/// How many findings of all sections are of a level.
#[must_use]
pub fn count(sections: &[Section], level: Level) -> usize {
    let findings = sections.iter().flat_map(|section| &section.findings);
    findings.filter(|finding| finding.level == level).count()
}

/// An age for people: the two largest units.
#[must_use]
pub fn age(seconds: f64) -> String {
    // Ages are far below what an integer holds; a negative one is a clock's whim.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the range of an age in whole seconds"
    )]
    let whole = seconds.clamp(0.0, 1e15) as u64;
    let (days, hours) = (whole / 86_400, whole / 3_600 % 24);
    let (minutes, left) = (whole / 60 % 60, whole % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{left} s"),
        (0, 0, minutes) => format!("{minutes} min {left} s"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_counted_over_sections() {
        let section = |findings| Section {
            subject: Subject::Stream,
            name: "s".to_owned(),
            findings,
        };
        let sections = [
            section(vec![Finding::ok("a", "x"), Finding::fail("b", "x", "y")]),
            section(vec![Finding::fail("a", "x", "y"), Finding::skip("c", "x")]),
        ];
        let counts = [Level::Ok, Level::Skip, Level::Warn, Level::Fail];
        assert_eq!(counts.map(|level| count(&sections, level)), [1, 1, 0, 2]);
        assert!(Level::Fail > Level::Warn && Level::Warn > Level::Skip);
    }

    #[test]
    fn ages_have_two_units() {
        let shown = [0.4, 59.9, 61.0, 3_661.0, 90_000.0, -3.0].map(age);
        assert_eq!(
            shown,
            ["0 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h", "0 s"]
        );
    }
}
