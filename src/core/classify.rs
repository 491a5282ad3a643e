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
use super::trouble::{NO_ANSWER, NO_CONNECTION, TroubleKind};

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
            reason: unreached(NO_ANSWER, &reason),
        },
        RawFailure::Dispatch { reason } => CallFailure::Unknown {
            reason: unreached(NO_CONNECTION, &reason),
        },
        RawFailure::ResponseUnreadable { status, reason } => CallFailure::Unknown {
            reason: format!("unreadable answer (HTTP {status}): {reason}"),
        },
        RawFailure::CredentialsNotLoaded { reason } => CallFailure::Credentials {
            code: "CredentialsNotLoaded".to_owned(),
            message: format!(
                "{} ({reason})",
                TroubleKind::CredentialsMissing.what_to_do()
            ),
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

/// Whether an error code says that the credentials may not make the call.
#[must_use]
pub fn says_denied(code: &str) -> bool {
    meaning_of(bare_code(code)) == Meaning::Denied
}

/// Whether an error code says that there is no such stream.
#[must_use]
pub fn says_missing(code: &str) -> bool {
    meaning_of(bare_code(code)) == Meaning::Missing
}

/// Strips what protocols put round a code: `namespace#Code:http://...`.
fn bare_code(code: &str) -> &str {
    let before_link = code.split_once(':').map_or(code, |(before, _)| before);
    before_link
        .split_once('#')
        .map_or(before_link, |(_, after)| after)
        .trim()
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
        return credentials_failure(code, &message);
    }
    if meaning == Meaning::Argument && call.action == Action::PutRecords {
        return CallFailure::BadRecord { code, message };
    }
    CallFailure::Operator {
        message: operator_message(call, meaning, &code, &message),
        code,
    }
}

fn unreached(how: &str, reason: &str) -> String {
    let advice = TroubleKind::Network.what_to_do();
    format!("{how}: {reason}; {advice}")
}

fn credentials_failure(code: String, message: &str) -> CallFailure {
    let kind = TroubleKind::of_credentials(&code, message);
    let message = with_what_was_said(kind.what_to_do(), message);
    CallFailure::Credentials { code, message }
}

/// What to do about it, then what the service said.
fn operator_message(call: Call<'_>, meaning: Meaning, code: &str, message: &str) -> String {
    let Call { action, stream } = call;
    let permission = action.iam();
    let what_to_do = TroubleKind::of_code(code).what_to_do();
    let advice = match meaning {
        Meaning::Denied => format!(
            "the credentials may not call {permission} on stream {stream}: allow {permission} in their IAM policy (and the stream's resource policy, if it has one)"
        ),
        Meaning::Key => format!(
            "{permission} on stream {stream} fails because its KMS key cannot be used: {what_to_do}"
        ),
        Meaning::Missing => {
            format!("stream {stream} was not found in this account and region: {what_to_do}")
        }
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
    with_what_was_said(&advice, message)
}

fn with_what_was_said(advice: &str, message: &str) -> String {
    if message.is_empty() {
        advice.to_owned()
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
mod tests;
