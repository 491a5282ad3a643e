//! What an examination of a stream says: may it be written to, and by which map.
//!
//! Rules, in the order they are applied:
//! 1. a stream that is missing, is being made or deleted, or ignores keys is not
//!    written to: the last would lose all order;
//! 2. what may not be asked for is done without: without a description the record
//!    limit is the default, without a list the shards are learnt from where records
//!    go;
//! 3. anything else that fails says nothing: what is known goes on.

use super::classify::{says_denied, says_missing};
use super::ports::{CallFailure, StreamDescription};
use super::shard_map::{Shard, ShardMap};

/// The record limit of a stream that does not say: the service's default of 1 MiB.
pub const DEFAULT_MAX_RECORD_BYTES: usize = 1024 * 1024;

/// What came of the two calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// Of `DescribeStreamSummary`.
    pub description: Result<StreamDescription, CallFailure>,
    /// Of `ListShards`.
    pub shards: Result<Vec<Shard>, CallFailure>,
}

/// What they mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Records may be sent.
    Usable(Usable),
    /// Nothing may be sent.
    Stop {
        /// Why, and what to do.
        reason: String,
    },
    /// It could not be examined.
    Unknown {
        /// Why not.
        reason: String,
    },
}

/// A stream that may be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usable {
    /// What it says of itself, if that may be asked.
    pub description: Option<StreamDescription>,
    /// Its shards; `None` when they must be learnt.
    pub map: Option<ShardMap>,
    /// Which permission would make it better, and why.
    pub advice: Option<String>,
}

/// Judges what an examination has found.
#[must_use]
pub fn judge(findings: Findings) -> Verdict {
    let Findings {
        description,
        shards,
    } = findings;
    let failures = [description.as_ref().err(), shards.as_ref().err()];
    if let Some(missing) = failures
        .into_iter()
        .flatten()
        .find(|failure| is_missing(failure))
    {
        return Verdict::Stop {
            reason: missing.to_string(),
        };
    }
    let mut advice = Vec::new();
    let description = match description {
        Ok(description) => Some(description),
        Err(failure) if is_denied(&failure) => {
            advice.push(
                "kinesis:DescribeStreamSummary is not allowed, so the record limit is taken to be 1 MiB, and \
                 neither AUTO record distribution nor a stream that was made again can be noticed",
            );
            None
        }
        Err(failure) => {
            return Verdict::Unknown {
                reason: failure.to_string(),
            };
        }
    };
    if let Some(reason) = description.as_ref().and_then(stops) {
        return Verdict::Stop { reason };
    }
    let map = match shards.map(ShardMap::new) {
        Ok(Ok(map)) => Some(map),
        Ok(Err(error)) => {
            return Verdict::Unknown {
                reason: error.to_string(),
            };
        }
        Err(failure) if is_denied(&failure) => {
            advice.push(
                "kinesis:ListShards is not allowed, so the shards are learnt from where records go, and budgets \
                 are right only once each shard was written to",
            );
            None
        }
        Err(failure) => {
            return Verdict::Unknown {
                reason: failure.to_string(),
            };
        }
    };
    let ask = |what: String| format!("{what}; allow it in the IAM policy of the credentials");
    let advice = (!advice.is_empty()).then(|| ask(advice.join("; ")));
    Verdict::Usable(Usable {
        description,
        map,
        advice,
    })
}

fn stops(description: &StreamDescription) -> Option<String> {
    if description.ignores_keys {
        return Some(
            "the stream's record distribution strategy is AUTO: it ignores partition keys, so no order \
             can be kept; set it to PARTITION_KEY"
                .to_owned(),
        );
    }
    (!description.writable).then(|| {
        format!(
            "the stream's status is {}; waiting until it is ACTIVE",
            description.status
        )
    })
}

fn is_missing(failure: &CallFailure) -> bool {
    matches!(failure, CallFailure::Operator { code, .. } if says_missing(code))
}

fn is_denied(failure: &CallFailure) -> bool {
    matches!(failure, CallFailure::Operator { code, .. } if says_denied(code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::shard_map::HashRange;

    fn described() -> StreamDescription {
        StreamDescription {
            arn: "arn".to_owned(),
            created_at_ms: Some(1),
            writable: true,
            status: "ACTIVE".to_owned(),
            max_record_bytes: 5,
            ignores_keys: false,
        }
    }

    fn listed() -> Vec<Shard> {
        vec![Shard {
            id: "s".into(),
            range: HashRange::ALL,
            parents: Vec::new(),
        }]
    }

    fn operator<T>(code: &str) -> Result<T, CallFailure> {
        let (code, message) = (code.to_owned(), "do this".to_owned());
        Err(CallFailure::Operator { code, message })
    }

    fn verdict(
        description: Result<StreamDescription, CallFailure>,
        shards: Result<Vec<Shard>, CallFailure>,
    ) -> Verdict {
        judge(Findings {
            description,
            shards,
        })
    }

    #[track_caller]
    fn usable(verdict: Verdict) -> Usable {
        let Verdict::Usable(usable) = verdict else {
            panic!("{verdict:?}");
        };
        usable
    }

    #[test]
    fn a_stream_that_is_known_is_usable() {
        let found = usable(verdict(Ok(described()), Ok(listed())));
        assert!(found.map.is_some() && found.advice.is_none());
    }

    #[test]
    fn what_may_not_be_asked_is_done_without() {
        let denied = "AccessDeniedException";
        let found = usable(verdict(operator(denied), operator(denied)));
        assert_eq!((&found.description, &found.map), (&None, &None));
        let advice = found.advice.expect("advice");
        for part in [
            "kinesis:DescribeStreamSummary",
            "kinesis:ListShards",
            "1 MiB",
        ] {
            assert!(advice.contains(part), "{advice}");
        }
        let found = usable(verdict(operator(denied), Ok(listed())));
        assert!(found.map.is_some());
        assert!(!found.advice.expect("advice").contains("ListShards"));
    }

    #[test]
    fn streams_that_would_lose_order_or_are_not_there_stop() {
        let auto = StreamDescription {
            ignores_keys: true,
            ..described()
        };
        let throttled = || {
            let (code, message) = ("LimitExceededException".to_owned(), String::new());
            Err(CallFailure::Throttled { code, message })
        };
        let deleting = StreamDescription {
            writable: false,
            status: "DELETING".to_owned(),
            ..described()
        };
        let stopping = [
            (verdict(Ok(auto), throttled()), "AUTO"),
            (verdict(Ok(deleting), Ok(listed())), "DELETING"),
            (
                verdict(operator("ResourceNotFoundException"), Ok(listed())),
                "ResourceNotFound",
            ),
            (
                verdict(Ok(described()), operator("ResourceNotFoundException")),
                "ResourceNotFound",
            ),
        ];
        for (verdict, word) in stopping {
            let stops = matches!(&verdict, Verdict::Stop { reason } if reason.contains(word));
            assert!(stops, "{verdict:?}");
        }
    }

    #[test]
    fn other_failures_and_lists_with_gaps_say_nothing() {
        let unknown = || {
            let reason = "time-out".to_owned();
            Err(CallFailure::Unknown { reason })
        };
        for verdict in [
            verdict(unknown(), Ok(listed())),
            verdict(
                Ok(described()),
                Err(CallFailure::Unknown {
                    reason: String::new(),
                }),
            ),
            verdict(Ok(described()), Ok(Vec::new())),
            verdict(operator("KMSDisabledException"), Ok(listed())),
        ] {
            assert!(matches!(verdict, Verdict::Unknown { .. }), "{verdict:?}");
        }
    }
}
