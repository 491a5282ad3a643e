//! What is made of a stream's facts, and of each call's outcome.

use super::Finding;
use crate::core::classify::Action;
use crate::core::ports::CallFailure;
use crate::core::trouble::TroubleKind;

/// What the service says of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFacts {
    /// `ACTIVE`, `UPDATING`, `CREATING`, `DELETING`.
    pub status: String,
    /// `PROVISIONED` or `ON_DEMAND`; `None` when the service does not say.
    pub mode: Option<String>,
    /// The most a record may weigh, in bytes.
    pub max_record_bytes: usize,
    /// Whether records are spread without regard to their keys.
    pub ignores_keys: bool,
    /// How it is encrypted.
    pub encryption: Encryption,
    /// How many shards are open, as it says.
    pub open_shards: Option<usize>,
}

/// How a stream is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all.
    None,
    /// With the key that AWS keeps for Kinesis: nothing has to be allowed.
    AwsKey,
    /// With a key of the account's: its policy has to allow the writer its use.
    OwnKey(String),
}

/// What came of a put that cannot be stored: its record's explicit hash key lies
/// outside of every shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TriedPut {
    /// The service looked at the record and refused it: the call is allowed.
    Refused,
    /// Some emulator took it all the same.
    Stored,
    /// The call failed otherwise.
    Failed(CallFailure),
}

/// Whether a call that reads is allowed. The relay does without it, and worse.
#[must_use]
pub fn reading_call(action: Action, failure: Option<&CallFailure>, without: &str) -> Finding {
    let check = check_of(action);
    let Some(failure) = failure else {
        return Finding::ok(check, format!("{} is allowed", action.iam()));
    };
    let kind = TroubleKind::of(failure);
    if kind == Some(TroubleKind::AccessDenied) {
        let message = format!("{} is not allowed: {without}", action.iam());
        return Finding::warn(check, message, allow(action));
    }
    failed(check, failure)
}

/// Whether records may be put.
#[must_use]
pub fn put_call(tried: &TriedPut) -> Finding {
    let action = Action::PutRecords;
    let check = check_of(action);
    match tried {
        TriedPut::Refused => {
            let message = "kinesis:PutRecords is allowed (tried with a record that no shard takes)";
            Finding::ok(check, message)
        }
        TriedPut::Stored => Finding::warn(
            check,
            "kinesis:PutRecords is allowed, but this service stored a record whose hash key no shard has",
            "this is no Kinesis: a record with the key \"tidegate-doctor\" and no data is in the stream now",
        ),
        TriedPut::Failed(failure)
            if TroubleKind::of(failure) == Some(TroubleKind::AccessDenied) =>
        {
            let message = format!("{} is not allowed: nothing can be sent", action.iam());
            Finding::fail(check, message, allow(action))
        }
        TriedPut::Failed(failure) => failed(check, failure),
    }
}

/// Everything the description tells, check by check.
#[must_use]
pub fn description(facts: &StreamFacts) -> Vec<Finding> {
    vec![
        status(&facts.status),
        mode(facts.mode.as_deref()),
        record_limit(facts.max_record_bytes),
        distribution(facts.ignores_keys),
        encryption(&facts.encryption),
    ]
}

fn status(status: &str) -> Finding {
    const CHECK: &str = "status";
    match status {
        "ACTIVE" | "UPDATING" => Finding::ok(CHECK, status),
        "CREATING" => {
            let fix = "wait until it is ACTIVE: the relay does, and begins by itself";
            Finding::warn(CHECK, "CREATING: it takes no records yet", fix)
        }
        other => {
            let message = format!("{other}: it takes no records");
            Finding::fail(CHECK, message, TroubleKind::StreamMissing.what_to_do())
        }
    }
}

fn mode(mode: Option<&str>) -> Finding {
    const CHECK: &str = "mode";
    match mode {
        Some(mode) => Finding::ok(CHECK, mode),
        None => Finding::skip(CHECK, "the service does not say whether it is on-demand"),
    }
}

fn record_limit(bytes: usize) -> Finding {
    let message = format!("records up to {} KiB, key included", bytes / 1024);
    Finding::ok("record_limit", message)
}

fn distribution(ignores_keys: bool) -> Finding {
    const CHECK: &str = "distribution";
    if ignores_keys {
        let message = "the record distribution strategy is AUTO: partition keys are ignored, so the relay refuses \
                       to write to it";
        return Finding::fail(CHECK, message, TroubleKind::KeysIgnored.what_to_do());
    }
    Finding::ok(CHECK, "records go by their partition key")
}

fn encryption(encryption: &Encryption) -> Finding {
    const CHECK: &str = "encryption";
    match encryption {
        Encryption::None => Finding::ok(CHECK, "none on the server"),
        Encryption::AwsKey => Finding::ok(CHECK, "with AWS's key for Kinesis"),
        Encryption::OwnKey(key) => Finding::skip(
            CHECK,
            format!("with key {key}; whether these credentials may use it shows only when something is written"),
        )
        .with_fix(TroubleKind::KmsDenied.what_to_do()),
    }
}

/// A failure that is no matter of permission: its own words, and what to do.
fn failed(check: &'static str, failure: &CallFailure) -> Finding {
    let fix = TroubleKind::of(failure).map_or("see what the service says", TroubleKind::what_to_do);
    Finding::fail(check, failure.to_string(), fix)
}

fn allow(action: Action) -> String {
    format!(
        "allow {} on this stream in the IAM policy of the credentials (and in the stream's resource policy, \
         if it has one)",
        action.iam()
    )
}

const fn check_of(action: Action) -> &'static str {
    match action {
        Action::DescribeStreamSummary => "describe",
        Action::ListShards => "list_shards",
        Action::PutRecords => "put_records",
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::core::classify::{Call, RawFailure, classify};

    fn failure(action: Action, code: &str) -> CallFailure {
        let call = Call {
            action,
            stream: "s",
        };
        let raw = RawFailure::Service {
            code: code.to_owned(),
            status: 400,
            message: String::new(),
        };
        classify(call, raw)
    }

    #[track_caller]
    fn check(found: &Finding, level: Level, fix: &str) {
        assert_eq!(found.level, level, "{found:?}");
        let given = found.fix.as_deref().unwrap_or_default();
        assert!(given.contains(fix), "{found:?}");
    }

    #[test]
    fn a_denied_read_warns_and_a_denied_put_fails() {
        let describe = Action::DescribeStreamSummary;
        let denied = failure(describe, "AccessDeniedException");
        let fix = "allow kinesis:DescribeStreamSummary";
        check(
            &reading_call(describe, Some(&denied), "x"),
            Level::Warn,
            fix,
        );
        check(&reading_call(describe, None, "x"), Level::Ok, "");
        let put = Action::PutRecords;
        let denied = TriedPut::Failed(failure(put, "AccessDeniedException"));
        check(&put_call(&denied), Level::Fail, "allow kinesis:PutRecords");
        check(&put_call(&TriedPut::Refused), Level::Ok, "");
        check(&put_call(&TriedPut::Stored), Level::Warn, "no Kinesis");
    }

    #[test]
    fn what_is_no_matter_of_permission_fails_with_its_own_fix() {
        let describe = Action::DescribeStreamSummary;
        for (code, fix) in [
            ("ResourceNotFoundException", "create it, or correct"),
            ("ExpiredTokenException", "renew them"),
            ("UnrecognizedClientException", "replace the key"),
        ] {
            let failure = failure(describe, code);
            check(
                &reading_call(describe, Some(&failure), "x"),
                Level::Fail,
                fix,
            );
        }
    }

    #[test]
    fn a_description_is_judged_line_by_line() {
        let good = StreamFacts {
            status: "ACTIVE".to_owned(),
            mode: Some("PROVISIONED".to_owned()),
            max_record_bytes: 1 << 20,
            ignores_keys: false,
            encryption: Encryption::None,
            open_shards: Some(1),
        };
        let all_good = description(&good);
        assert!(all_good.iter().all(|found| found.level == Level::Ok));
        assert!(all_good[2].message.contains("1024 KiB"));
        let bad = StreamFacts {
            status: "DELETING".to_owned(),
            mode: None,
            ignores_keys: true,
            encryption: Encryption::OwnKey("arn:key".to_owned()),
            ..good.clone()
        };
        let levels: Vec<Level> = description(&bad).iter().map(|found| found.level).collect();
        let (fail, skip) = (Level::Fail, Level::Skip);
        assert_eq!(levels, [fail, skip, Level::Ok, fail, skip]);
        check(&description(&bad)[3], fail, "PARTITION_KEY");
        check(&description(&bad)[4], skip, "kms:GenerateDataKey");
        let new = StreamFacts {
            status: "CREATING".to_owned(),
            ..good
        };
        check(&description(&new)[0], Level::Warn, "wait");
    }
}
