//! Every code and every kind of failure, and what it means.

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
#[rustfmt::skip]
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
        let got = (
            name(&answer(PUT, code, *status)),
            name(&answer(LIST, code, *status)),
        );
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
    let says = |code: &str, call| {
        let failure = answer(call, code, 400);
        assert_eq!(name(&failure), "operator", "{code}");
        failure.to_string()
    };
    assert!(says("AccessDeniedException", PUT).contains("allow kinesis:PutRecords"));
    assert!(says("AccessDeniedException", LIST).contains("allow kinesis:ListShards"));
    assert!(says("KMSDisabledException", PUT).contains("enable the stream's KMS key"));
    assert!(says("KMSAccessDeniedException", PUT).contains("kms:GenerateDataKey"));
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
        (
            RawFailure::ResponseUnreadable {
                status: 200,
                reason: reason(),
            },
            "unknown",
        ),
        (
            RawFailure::ResponseUnreadable {
                status: 400,
                reason: reason(),
            },
            "unknown",
        ),
        (
            RawFailure::CredentialsNotLoaded { reason: reason() },
            "credentials",
        ),
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
    for code in [
        "InternalFailure",
        "",
        "NeverSeenBefore",
        "InvalidArgumentException",
    ] {
        assert_eq!(
            classify_record(code, "why"),
            RecordOutcome::Failed {
                code: code.to_owned(),
                message: "why".to_owned()
            }
        );
    }
}

/// The service quotes what it refuses.
#[test]
fn what_is_shown_of_a_bad_record_is_its_code_alone() {
    let message = "Value 'secret-key' at 'records.3.member.partitionKey' failed to satisfy";
    let failure = |code: &str| {
        let (code, message) = (code.to_owned(), message.to_owned());
        let status = 400;
        let raw = RawFailure::Service {
            code,
            status,
            message,
        };
        classify(PUT, raw)
    };
    assert_eq!(
        failure("ValidationException").shown(),
        "a record was not accepted (ValidationException)"
    );
    let denied = failure("AccessDeniedException");
    assert_eq!(denied.shown(), denied.to_string());
}
