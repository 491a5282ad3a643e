//! The systemd unit in `deploy/` fits the program.

use std::process::Command;
use std::time::Duration;

use tidegate::actors::supervisor::LAST_ACTS;
use tidegate::admin::server::LIVE_WITHIN;
use tidegate::config::environment::Environment;
use tidegate::config::settings::Settings;

use crate::relay::PROGRAM;

const UNIT: &str = include_str!("../../deploy/systemd/tidegate.service");

/// The values of a key, in order.
fn values(key: &str) -> Vec<&'static str> {
    let lines = UNIT.lines().filter_map(|line| line.split_once('='));
    lines
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| value)
        .collect()
}

#[track_caller]
fn seconds(key: &str) -> Duration {
    let value = *values(key).first().expect("the key");
    let number = value.strip_suffix('s').expect("seconds");
    Duration::from_secs(number.parse().expect("a number"))
}

#[test]
fn its_time_outs_leave_the_relay_its_own() {
    let database = (
        "DATABASE_URL".to_owned(),
        "postgres://x@localhost/x".to_owned(),
    );
    let settings = Settings::load(None, Environment::from_iter([database])).expect("defaults");
    let longest = settings.limits.drain_grace + LAST_ACTS + LIVE_WITHIN;
    assert!(seconds("TimeoutStopSec") > longest, "{longest:?}");
    assert!(seconds("WatchdogSec") >= 2 * LIVE_WITHIN);
}

#[test]
fn it_runs_what_there_is_and_restarts_what_may_work() {
    assert_eq!(values("Type"), ["notify-reload"]);
    assert_eq!(values("Restart"), ["on-failure"]);
    assert_eq!(values("RestartPreventExitStatus"), ["78"]);
    for command in [values("ExecStartPre"), values("ExecStart")].concat() {
        let mut words = command.split(' ');
        assert_eq!(words.next(), Some("/usr/bin/tidegate"));
        let known = Command::new(PROGRAM).args(words).arg("--help").output();
        assert!(known.expect("an end").status.success(), "{command}");
    }
}

/// Where systemd's own tool is there.
#[test]
fn systemd_finds_nothing_wrong_with_it() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        eprintln!("not checked: there is no systemd-analyze");
        return;
    };
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let version = version.split_whitespace().nth(1).expect("a version");
    let version: u32 = version.parse().expect("a number");
    // What is newer than the tool: all else is checked.
    let is_known = |line: &&str| {
        let since = if line.starts_with("RestartSteps=") || line.starts_with("RestartMaxDelaySec=")
        {
            254
        } else {
            0
        };
        version >= since
    };
    let lines = UNIT.lines().filter(is_known);
    let mut unit: String = lines.map(|line| format!("{line}\n")).collect();
    if version < 253 {
        unit = unit.replace("Type=notify-reload", "Type=notify");
    }
    let unit = unit.replace("/usr/bin/tidegate", PROGRAM);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tidegate.service");
    std::fs::write(&path, unit).expect("written");
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&path)
        .output()
        .expect("an end");
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(
        verified.status.success() && said.trim().is_empty(),
        "{said}"
    );
}
