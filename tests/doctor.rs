//! `tidegate doctor`, as an operator meets it: the real program on real databases and
//! an emulated Kinesis, healthy and broken in every way it knows; and where a fix is a
//! statement, that it mends what it is said to mend.
#![cfg(feature = "demo")]
#![allow(
    clippy::expect_used,
    clippy::large_futures,
    reason = "a test says what it expects, and has its thread's stack for itself"
)]

#[path = "common/database.rs"]
mod database;
#[path = "common/pgbouncer.rs"]
mod pgbouncer;
#[path = "common/process.rs"]
mod process;
#[path = "common/relay.rs"]
mod relay;
#[path = "common/scenario.rs"]
mod scenario;
#[path = "common/world.rs"]
mod world;

#[path = "doctor/aws.rs"]
mod aws;
#[path = "doctor/databases.rs"]
mod databases;
#[path = "doctor/healthy.rs"]
mod healthy;
#[path = "doctor/held.rs"]
mod held;
#[path = "doctor/pooler.rs"]
mod pooler;
#[path = "doctor/roles.rs"]
mod roles;

use serde_json::Value;

use crate::world::World;

/// What the doctor said.
struct Said {
    code: i32,
    /// The whole of it.
    report: Value,
}

/// Runs the doctor with these settings.
async fn doctor(settings: &[(String, String)], more: &[&str]) -> Said {
    let mut command = relay::program(settings);
    command.args(["doctor", "--output", "json"]).args(more);
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("no panic").expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let report = serde_json::from_str(&text).unwrap_or_else(|error| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        panic!("no JSON ({error}): {text}\n{said}")
    });
    Said {
        code: output.status.code().expect("an exit code"),
        report,
    }
}

/// Runs it with the usual settings of a world.
async fn examine(world: &World) -> Said {
    doctor(&world.settings(&[]), &[]).await
}

impl Said {
    fn checks(&self) -> Vec<&Value> {
        self.report["checks"]
            .as_array()
            .expect("checks")
            .iter()
            .collect()
    }

    /// The line of one check about one kind of thing.
    #[track_caller]
    fn line(&self, subject: &str, check: &str) -> &Value {
        let is_it = |line: &&&Value| line["subject"] == subject && line["check"] == check;
        let found: Vec<&Value> = self.checks();
        let mut found = found.iter().filter(is_it);
        let line = found.next();
        assert!(found.next().is_none(), "{check} is there twice: {self}");
        line.unwrap_or_else(|| panic!("no line {check} of a {subject}: {self}"))
    }

    /// Asserts that a line has a level, and these texts in message and fix.
    #[track_caller]
    fn has(&self, place: (&str, &str), level: &str, message: &str, fix: &str) {
        let line = self.line(place.0, place.1);
        assert_eq!(line["level"], level, "{line}");
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        assert!(text("message").contains(message), "{message:?}: {line}");
        assert!(text("fix").contains(fix), "{fix:?}: {line}");
    }

    /// The fix of a line.
    #[track_caller]
    fn fix(&self, subject: &str, check: &str) -> String {
        let fix = self.line(subject, check)["fix"].as_str();
        fix.expect("a fix").to_owned()
    }

    /// Asserts that these lines alone are not good; levels `ok` and `skip` are.
    #[track_caller]
    fn is_good_but(&self, but: &[(&str, &str)]) {
        for line in self.checks() {
            let (subject, check) = (line["subject"].as_str(), line["check"].as_str());
            let is_meant = but
                .iter()
                .any(|(s, c)| Some(*s) == subject && Some(*c) == check);
            let is_good = line["level"] == "ok" || line["level"] == "skip";
            assert_ne!(is_good, is_meant, "{line}\n{self}");
        }
        let is_failed = self.checks().iter().any(|line| line["level"] == "fail");
        assert_eq!(self.code, i32::from(is_failed), "{self}");
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = serde_json::to_string_pretty(&self.report).unwrap_or_default();
        write!(f, "exit code {}\n{text}", self.code)
    }
}
