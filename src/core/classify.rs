//! What the answer to a call means for its records: one total function from
//! everything a call can answer to a [`CallFailure`], and one for the error
//! codes of single records.
//!
//! Rules, in the order they are applied:
//! 1. A call whose answer did not come, or cannot be read, is `Unknown`: sending
//!    the same records again before anything newer of their keys is always safe.
//! 2. A throttle says by its name that nothing was stored.
//! 3. Any other answer of the 5xx kind is `Unknown`, whatever it is called.
//! 4. A code we know decides.
//! 5. A code we do not know never costs a record: a refusal (4xx) waits for the
//!    operator with its records kept, everything else is `Unknown`. Only codes
//!    named here can blame a record.

use super::ports::{CallFailure, RecordOutcome};

/// The calls the relay makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// `DescribeStreamSummary`.
    DescribeStreamSummary,
    /// `ListShards`.
    ListShards,
    /// `PutRecords`.
    PutRecords,
}

impl Action {
    /// The permission the call needs, as IAM policies name it.
    #[must_use]
    pub const fn iam(self) -> &'static str {
        match self {
            Self::DescribeStreamSummary => "kinesis:DescribeStreamSummary",
            Self::ListShards => "kinesis:ListShards",
            Self::PutRecords => "kinesis:PutRecords",
        }
    }
}

/// Which call failed, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call<'a> {
    /// What was called.
    pub action: Action,
    /// The stream's name or ARN.
    pub stream: &'a str,
}

/// What a call came back with when it was not an answer record by record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawFailure {
    /// The service answered with an error.
    Service {
        /// Its error code; empty when the answer named none (a proxy's page).
        code: String,
        /// The HTTP status.
        status: u16,
        /// Its message; may be empty.
        message: String,
    },
    /// No answer within the time-outs.
    Timeout {
        /// Which time-out, in words.
        reason: String,
    },
    /// The connection could not be made, or broke.
    Dispatch {
        /// What happened.
        reason: String,
    },
    /// No credentials could be loaded, so nothing was sent.
    CredentialsNotLoaded {
        /// Which provider said what.
        reason: String,
    },
    /// An answer came that could not be read to its end or understood.
    ResponseUnreadable {
        /// The HTTP status; 0 when not even that is known.
        status: u16,
        /// What was wrong with it.
        reason: String,
    },
    /// The request could not be built, so nothing was sent.
    Construction {
        /// Why not.
        reason: String,
    },
}

/// What a known error code stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Throttle,
    Trouble,
    Credentials,
    Denied,
    Key,
    Missing,
    Operator,
    Argument,
    Unlisted,
}

/// Says what a failed call means for its records.
#[must_use]
pub fn classify(call: Call<'_>, failure: RawFailure) -> CallFailure {
    match failure {
        RawFailure::Timeout { reason } => CallFailure::Unknown {
            reason: format!("no answer in time: {reason}"),
        },
        RawFailure::Dispatch { reason } => CallFailure::Unknown {
            reason: format!("connection failed: {reason}"),
        },
        RawFailure::ResponseUnreadable { status, reason } => CallFailure::Unknown {
            reason: format!("unreadable answer (HTTP {status}): {reason}"),
        },
        RawFailure::CredentialsNotLoaded { reason } => CallFailure::Credentials {
            code: "CredentialsNotLoaded".to_owned(),
            message: reason,
        },
        RawFailure::Construction { reason } => CallFailure::Operator {
            code: "RequestNotBuilt".to_owned(),
            message: reason,
        },
        RawFailure::Service {
            code,
            status,
            message,
        } => classify_service(call, bare_code(&code), status, message),
    }
}

/// Says what a record's error code means for it. Every record with a code was
/// not stored; which code only decides how the writer reacts.
#[must_use]
pub fn classify_record(code: &str, message: &str) -> RecordOutcome {
    let code = bare_code(code);
    match meaning_of(code) {
        Meaning::Throttle => RecordOutcome::Throttled,
        Meaning::Trouble
        | Meaning::Credentials
        | Meaning::Denied
        | Meaning::Key
        | Meaning::Missing
        | Meaning::Operator
        | Meaning::Argument
        | Meaning::Unlisted => RecordOutcome::Failed {
            code: code.to_owned(),
            message: message.to_owned(),
        },
    }
}

/// Strips what protocols put round a code: `namespace#Code:http://...`.
fn bare_code(code: &str) -> &str {
    let before_link = code.split_once(':').map_or(code, |(before, _)| before);
    before_link.split_once('#').map_or(before_link, |(_, after)| after).trim()
}

fn classify_service(call: Call<'_>, code: &str, status: u16, message: String) -> CallFailure {
    let meaning = match meaning_of(code) {
        Meaning::Unlisted => meaning_of_status(status),
        listed @ (Meaning::Throttle
        | Meaning::Trouble
        | Meaning::Credentials
        | Meaning::Denied
        | Meaning::Key
        | Meaning::Missing
        | Meaning::Operator
        | Meaning::Argument) => listed,
    };
    let code = if code.is_empty() {
        format!("HTTP {status}")
    } else {
        code.to_owned()
    };
    if meaning == Meaning::Throttle {
        return CallFailure::Throttled { code, message };
    }
    if status >= 500 || meaning == Meaning::Trouble {
        return CallFailure::Unknown {
            reason: format!("{code} (HTTP {status}): {message}"),
        };
    }
    if meaning == Meaning::Credentials {
        return CallFailure::Credentials { code, message };
    }
    if meaning == Meaning::Argument && call.action == Action::PutRecords {
        return CallFailure::BadRecord { code, message };
    }
    CallFailure::Operator {
        message: operator_message(call, meaning, &code, &message),
        code,
    }
}

/// What to do about it, then what the service said.
fn operator_message(call: Call<'_>, meaning: Meaning, code: &str, message: &str) -> String {
    let Call { action, stream } = call;
    let permission = action.iam();
    let advice = match meaning {
        Meaning::Denied => format!(
            "the credentials may not call {permission} on stream {stream}: allow {permission} in their IAM policy (and the stream's resource policy, if it has one)"
        ),
        Meaning::Key => format!(
            "the KMS key of stream {stream} cannot be used: enable the key, and allow kms:GenerateDataKey on it to the credentials that call {permission}"
        ),
        Meaning::Missing => format!(
            "stream {stream} was not found in this account and region: create it, or correct stream_name, stream_arn or region"
        ),
        Meaning::Argument => format!(
            "the service does not accept the request for stream {stream}: correct stream_name, stream_arn or region"
        ),
        Meaning::Throttle
        | Meaning::Trouble
        | Meaning::Credentials
        | Meaning::Operator
        | Meaning::Unlisted => format!(
            "{permission} on stream {stream} was refused with {code}: nothing is dropped, the relay goes on trying slowly"
        ),
    };
    if message.is_empty() {
        advice
    } else {
        format!("{advice} (the service says: {message})")
    }
}

/// The error codes of `PutRecords`, `ListShards` and `DescribeStreamSummary` in
/// the SDK's model (1.130), the Kinesis API's common errors, and the spellings
/// that Signature Version 4 endpoints use for the same things.
fn meaning_of(code: &str) -> Meaning {
    match code {
        "ProvisionedThroughputExceededException"
        | "KMSThrottlingException"
        | "ThrottlingException"
        | "Throttling"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "RequestLimitExceeded"
        | "LimitExceeded"
        | "LimitExceededException"
        | "TooManyRequestsException"
        | "BandwidthLimitExceeded"
        | "SlowDown" => Meaning::Throttle,

        "InternalFailure"
        | "InternalFailureException"
        | "InternalServerError"
        | "InternalServerException"
        | "InternalError"
        | "InternalServiceError"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "RequestTimeout"
        | "RequestTimeoutException"
        | "ResourceInUseException"
        | "ExpiredNextTokenException" => Meaning::Trouble,

        "ExpiredToken"
        | "ExpiredTokenException"
        | "TokenRefreshRequired"
        | "UnrecognizedClient"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidAccessKeyId"
        | "InvalidToken"
        | "RequestExpired"
        | "RequestExpiredException"
        | "RequestInTheFuture"
        | "RequestTimeTooSkewed"
        | "AuthFailure"
        | "InvalidSignature"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException" => Meaning::Credentials,

        "AccessDenied"
        | "AccessDeniedException"
        | "UnauthorizedOperation"
        | "NotAuthorized"
        | "NotAuthorizedException" => Meaning::Denied,

        "ResourceNotFound" | "ResourceNotFoundException" => Meaning::Missing,

        "OptInRequired"
        | "SubscriptionRequiredException"
        | "UnknownOperationException"
        | "InvalidAction"
        | "DryRunOperationException" => Meaning::Operator,

        "InvalidArgument"
        | "InvalidArgumentException"
        | "ValidationException"
        | "ValidationError"
        | "SerializationException"
        | "InvalidParameterValue"
        | "InvalidParameterCombination"
        | "MissingParameter"
        | "RequestEntityTooLarge"
        | "RequestEntityTooLargeException" => Meaning::Argument,

        // Denied, disabled, invalid state, not found, opt-in required, and what
        // else a key may come to be.
        kms if kms.starts_with("KMS") || kms.starts_with("Kms") => Meaning::Key,

        _ => Meaning::Unlisted,
    }
}

/// What an answer with no code, or with one that is not listed, stands for.
const fn meaning_of_status(status: u16) -> Meaning {
    match status {
        429 => Meaning::Throttle,
        // 413: too large for the service or for a proxy on the way. Smaller
        // calls may pass, and finding the one record that does not is what
        // `BadRecord` is for.
        413 => Meaning::Argument,
        408 => Meaning::Trouble,
        400..=499 => Meaning::Unlisted,
        _ => Meaning::Trouble,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUT: Call<'_> = Call {
        action: Action::PutRecords,
        stream: "orders",
    };
    const LIST: Call<'_> = Call {
        action: Action::ListShards,
        stream: "orders",
    };

    fn answer(call: Call<'_>, code: &str, status: u16) -> CallFailure {
        classify(
            call,
            RawFailure::Service {
                code: code.to_owned(),
                status,
                message: "because".to_owned(),
            },
        )
    }

    fn name(failure: &CallFailure) -> &'static str {
        match failure {
            CallFailure::Throttled { .. } => "throttled",
            CallFailure::Unknown { .. } => "unknown",
            CallFailure::Credentials { .. } => "credentials",
            CallFailure::Operator { .. } => "operator",
            CallFailure::BadRecord { .. } => "bad record",
        }
    }

    /// code, status, what a put means, what any other call means.
    const TABLE: &[(&str, u16, &str, &str)] = &[
        ("ProvisionedThroughputExceededException", 400, "throttled", "throttled"),
        ("KMSThrottlingException", 400, "throttled", "throttled"),
        ("ThrottlingException", 400, "throttled", "throttled"),
        ("LimitExceededException", 400, "throttled", "throttled"),
        ("LimitExceeded", 400, "throttled", "throttled"),
        ("SlowDown", 503, "throttled", "throttled"),
        ("InternalFailure", 500, "unknown", "unknown"),
        ("InternalFailureException", 500, "unknown", "unknown"),
        ("InternalFailure", 400, "unknown", "unknown"),
        ("ServiceUnavailable", 503, "unknown", "unknown"),
        ("", 500, "unknown", "unknown"),
        ("", 502, "unknown", "unknown"),
        ("", 503, "unknown", "unknown"),
        ("", 504, "unknown", "unknown"),
        ("AccessDeniedException", 500, "unknown", "unknown"),
        ("InvalidArgumentException", 502, "unknown", "unknown"),
        ("ResourceInUseException", 400, "unknown", "unknown"),
        ("ExpiredNextTokenException", 400, "unknown", "unknown"),
        ("ExpiredToken", 403, "credentials", "credentials"),
        ("ExpiredTokenException", 400, "credentials", "credentials"),
        ("UnrecognizedClientException", 400, "credentials", "credentials"),
        ("InvalidSignatureException", 400, "credentials", "credentials"),
        ("IncompleteSignature", 403, "credentials", "credentials"),
        ("MissingAuthenticationTokenException", 400, "credentials", "credentials"),
        ("RequestExpired", 400, "credentials", "credentials"),
        ("AccessDeniedException", 400, "operator", "operator"),
        ("AccessDenied", 403, "operator", "operator"),
        ("KMSAccessDeniedException", 400, "operator", "operator"),
        ("KMSDisabledException", 400, "operator", "operator"),
        ("KMSInvalidStateException", 400, "operator", "operator"),
        ("KMSNotFoundException", 400, "operator", "operator"),
        ("KMSOptInRequired", 400, "operator", "operator"),
        ("KMSSomethingNew", 400, "operator", "operator"),
        ("ResourceNotFoundException", 400, "operator", "operator"),
        ("OptInRequired", 403, "operator", "operator"),
        ("UnknownOperationException", 404, "operator", "operator"),
        ("InvalidArgumentException", 400, "bad record", "operator"),
        ("ValidationException", 400, "bad record", "operator"),
        ("SerializationException", 400, "bad record", "operator"),
        ("", 413, "bad record", "operator"),
        ("NeverSeenBefore", 400, "operator", "operator"),
        ("", 400, "operator", "operator"),
        ("", 403, "operator", "operator"),
        ("", 407, "operator", "operator"),
        ("", 408, "unknown", "unknown"),
        ("", 429, "throttled", "throttled"),
        ("NeverSeenBefore", 500, "unknown", "unknown"),
        ("NeverSeenBefore", 302, "unknown", "unknown"),
        ("", 200, "unknown", "unknown"),
        ("", 0, "unknown", "unknown"),
    ];

    #[test]
    fn every_code_has_its_meaning() {
        for (code, status, put, other) in TABLE {
            let got = (name(&answer(PUT, code, *status)), name(&answer(LIST, code, *status)));
            assert_eq!(got, (*put, *other), "{code} with {status}");
        }
    }

    #[test]
    fn a_code_nobody_knows_never_blames_a_record() {
        for status in 0..=599 {
            if status == 413 {
                continue;
            }
            let failure = answer(PUT, "NeverSeenBefore", status);
            assert_ne!(name(&failure), "bad record", "status {status}");
        }
    }

    #[test]
    fn codes_come_wrapped() {
        for wrapped in [
            "com.amazonaws.kinesis.v20131202#AccessDeniedException",
            "AccessDeniedException:http://internal.amazon.com/",
            "a.b#AccessDeniedException:http://x#y",
        ] {
            let failure = answer(PUT, wrapped, 400);
            assert!(
                matches!(&failure, CallFailure::Operator { code, .. } if code == "AccessDeniedException"),
                "{wrapped}: {failure:?}"
            );
        }
    }

    #[test]
    fn tells_the_operator_what_to_do() {
        let says = |code: &str, call| match answer(call, code, 400) {
            CallFailure::Operator { message, .. } => message,
            other => panic!("{code}: {other:?}"),
        };
        assert!(says("AccessDeniedException", PUT).contains("allow kinesis:PutRecords"));
        assert!(says("AccessDeniedException", LIST).contains("allow kinesis:ListShards"));
        assert!(says("KMSDisabledException", PUT).contains("kms:GenerateDataKey"));
        assert!(says("ResourceNotFoundException", PUT).contains("stream orders was not found"));
        assert!(says("ValidationException", LIST).contains("correct stream_name"));
        assert!(says("NeverSeenBefore", PUT).contains("(the service says: because)"));
    }

    #[test]
    fn no_answer_is_unknown_and_nothing_sent_is_not() {
        let reason = || "because".to_owned();
        let cases = [
            (RawFailure::Timeout { reason: reason() }, "unknown"),
            (RawFailure::Dispatch { reason: reason() }, "unknown"),
            (RawFailure::ResponseUnreadable { status: 200, reason: reason() }, "unknown"),
            (RawFailure::ResponseUnreadable { status: 400, reason: reason() }, "unknown"),
            (RawFailure::CredentialsNotLoaded { reason: reason() }, "credentials"),
            (RawFailure::Construction { reason: reason() }, "operator"),
        ];
        for (raw, expected) in cases {
            let failure = classify(PUT, raw.clone());
            assert_eq!(name(&failure), expected, "{raw:?}");
            assert!(failure.to_string().contains("because"), "{failure}");
        }
    }

    #[test]
    fn records_are_throttled_or_failed_never_lost() {
        assert_eq!(
            classify_record("ProvisionedThroughputExceededException", "over"),
            RecordOutcome::Throttled
        );
        for code in ["InternalFailure", "", "NeverSeenBefore", "InvalidArgumentException"] {
            assert_eq!(
                classify_record(code, "why"),
                RecordOutcome::Failed { code: code.to_owned(), message: "why".to_owned() }
            );
        }
    }
}
