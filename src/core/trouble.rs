//! What kind of trouble a stream is in, from how a call to it failed.
//!
//! Each kind has a name (status, metrics), says what a person can do about it,
//! and whether waiting alone may mend it: *passing* kinds (network, the service
//! itself, throttles) count as trouble only when nothing succeeds for a while,
//! *lasting* ones (credentials, permissions, keys, clock) at once.

use super::ports::CallFailure;

/// How a failure says that no connection was made, or that it broke.
pub(super) const NO_CONNECTION: &str = "connection failed";

/// How a failure says that no answer came in time.
pub(super) const NO_ANSWER: &str = "no answer in time";

/// How a failure says by how much the clocks differ.
const CLOCK: &str = "the local clock is";

/// A smaller difference of clocks is never why a signature is refused: the
/// service accepts 5 minutes to either side, and the SDK takes 4 minutes for a
/// sign of a wrong clock.
const SUSPICIOUS_SKEW_SECONDS: u64 = 4 * 60;

/// A kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TroubleKind {
    /// No provider of the chain gave credentials.
    CredentialsMissing,
    /// The credentials were good and are over.
    CredentialsExpired,
    /// The service does not know the credentials, or they do not fit together.
    CredentialsRefused,
    /// The local clock is wrong: signatures are too old or too new.
    ClockSkew,
    /// A policy does not allow the call.
    AccessDenied,
    /// A policy does not allow the use of the stream's key.
    KmsDenied,
    /// The stream's key is disabled.
    KmsDisabled,
    /// The stream's key is in a state in which it cannot be used.
    KmsInvalidState,
    /// The stream's key is not there.
    KmsNotFound,
    /// The account may not use the key service.
    KmsOptIn,
    /// There is no such stream.
    StreamMissing,
    /// The stream takes no records in its present state.
    StreamNotActive,
    /// The stream spreads records without regard to their keys.
    KeysIgnored,
    /// Whole calls are throttled and nothing gets through.
    Throttled,
    /// The service is not reached: name, route, TLS, or no answer in time.
    Network,
    /// The service fails, or what answers is not the service.
    ServiceFailure,
    /// The service refuses the call for another reason.
    Refused,
}

// === impl TroubleKind ===

impl TroubleKind {
    /// All kinds.
    pub const ALL: [Self; 17] = [
        Self::CredentialsMissing,
        Self::CredentialsExpired,
        Self::CredentialsRefused,
        Self::ClockSkew,
        Self::AccessDenied,
        Self::KmsDenied,
        Self::KmsDisabled,
        Self::KmsInvalidState,
        Self::KmsNotFound,
        Self::KmsOptIn,
        Self::StreamMissing,
        Self::StreamNotActive,
        Self::KeysIgnored,
        Self::Throttled,
        Self::Network,
        Self::ServiceFailure,
        Self::Refused,
    ];

    /// The kind of a failure; `None` when it concerns a record, not the stream.
    #[must_use]
    pub fn of(failure: &CallFailure) -> Option<Self> {
        match failure {
            CallFailure::BadRecord { .. } => None,
            CallFailure::Throttled { .. } => Some(Self::Throttled),
            CallFailure::Unknown { reason } => Some(Self::of_unknown(reason)),
            CallFailure::Credentials { code, message } => Some(Self::of_credentials(code, message)),
            CallFailure::Operator { code, .. } => Some(Self::of_code(code)),
        }
    }

    /// The kind of an error code that means neither a throttle nor a failure of
    /// the service.
    pub(super) fn of_code(code: &str) -> Self {
        match code {
            "AccessDenied"
            | "AccessDeniedException"
            | "UnauthorizedOperation"
            | "NotAuthorized"
            | "NotAuthorizedException" => Self::AccessDenied,
            "KMSAccessDeniedException" => Self::KmsDenied,
            "KMSDisabledException" => Self::KmsDisabled,
            "KMSNotFoundException" => Self::KmsNotFound,
            "KMSOptInRequired" => Self::KmsOptIn,
            "ResourceNotFound" | "ResourceNotFoundException" => Self::StreamMissing,
            // Invalid state, and what else a key may come to be.
            kms if kms.starts_with("KMS") || kms.starts_with("Kms") => Self::KmsInvalidState,
            _ => Self::Refused,
        }
    }

    fn of_unknown(reason: &str) -> Self {
        if reason.starts_with(NO_CONNECTION) || reason.starts_with(NO_ANSWER) {
            Self::Network
        } else {
            Self::ServiceFailure
        }
    }

    /// The service has one code for a wrong key and for a signature out of time,
    /// so the message and the measured clocks count too.
    pub(super) fn of_credentials(code: &str, message: &str) -> Self {
        let is_out_of_time = message.contains("Signature expired")
            || message.contains("Signature not yet current")
            || message.contains(CLOCK);
        match code {
            "CredentialsNotLoaded" => Self::CredentialsMissing,
            "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => {
                Self::CredentialsExpired
            }
            "RequestExpired"
            | "RequestExpiredException"
            | "RequestInTheFuture"
            | "RequestTimeTooSkewed" => Self::ClockSkew,
            _ if is_out_of_time => Self::ClockSkew,
            _ => Self::CredentialsRefused,
        }
    }

    /// Its name in the status and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CredentialsMissing => "credentials_missing",
            Self::CredentialsExpired => "credentials_expired",
            Self::CredentialsRefused => "credentials_refused",
            Self::ClockSkew => "clock_skew",
            Self::AccessDenied => "access_denied",
            Self::KmsDenied => "kms_denied",
            Self::KmsDisabled => "kms_disabled",
            Self::KmsInvalidState => "kms_invalid_state",
            Self::KmsNotFound => "kms_not_found",
            Self::KmsOptIn => "kms_opt_in",
            Self::StreamMissing => "stream_missing",
            Self::StreamNotActive => "stream_not_active",
            Self::KeysIgnored => "keys_ignored",
            Self::Throttled => "throttled",
            Self::Network => "network",
            Self::ServiceFailure => "service_failure",
            Self::Refused => "refused",
        }
    }

    /// Whether waiting alone may mend it.
    #[must_use]
    pub const fn is_passing(self) -> bool {
        match self {
            Self::Throttled | Self::Network | Self::ServiceFailure => true,
            Self::CredentialsMissing
            | Self::CredentialsExpired
            | Self::CredentialsRefused
            | Self::ClockSkew
            | Self::AccessDenied
            | Self::KmsDenied
            | Self::KmsDisabled
            | Self::KmsInvalidState
            | Self::KmsNotFound
            | Self::KmsOptIn
            | Self::StreamMissing
            | Self::StreamNotActive
            | Self::KeysIgnored
            | Self::Refused => false,
        }
    }

    /// Whether it lies between the relay and the service, so that what one kind
    /// of call meets, all others meet too.
    #[must_use]
    pub const fn concerns_every_call(self) -> bool {
        match self {
            Self::CredentialsMissing
            | Self::CredentialsExpired
            | Self::CredentialsRefused
            | Self::ClockSkew
            | Self::StreamMissing
            | Self::StreamNotActive
            | Self::KeysIgnored
            | Self::Network => true,
            Self::AccessDenied
            | Self::KmsDenied
            | Self::KmsDisabled
            | Self::KmsInvalidState
            | Self::KmsNotFound
            | Self::KmsOptIn
            | Self::Throttled
            | Self::ServiceFailure
            | Self::Refused => false,
        }
    }

    /// Whether other credentials may mend it.
    #[must_use]
    pub const fn wants_credentials(self) -> bool {
        match self {
            Self::CredentialsMissing | Self::CredentialsExpired | Self::CredentialsRefused => true,
            Self::ClockSkew
            | Self::AccessDenied
            | Self::KmsDenied
            | Self::KmsDisabled
            | Self::KmsInvalidState
            | Self::KmsNotFound
            | Self::KmsOptIn
            | Self::StreamMissing
            | Self::StreamNotActive
            | Self::KeysIgnored
            | Self::Throttled
            | Self::Network
            | Self::ServiceFailure
            | Self::Refused => false,
        }
    }

    /// What a person can do about it. The relay tries again by itself in any case.
    #[must_use]
    pub const fn what_to_do(self) -> &'static str {
        match self {
            Self::CredentialsMissing => {
                "give the relay credentials (environment, profile, role of the machine or pod), or set access_key_id and secret_access_key of the pipeline"
            }
            Self::CredentialsExpired => {
                "renew them where the relay takes them from (session, profile, token file, secret)"
            }
            Self::CredentialsRefused => {
                "correct or replace the key where the relay takes it from, and check that it belongs to this account and is active"
            }
            Self::ClockSkew => "set the machine's clock (NTP)",
            Self::AccessDenied => {
                "allow the call in the IAM policy of the credentials (and in the stream's resource policy, if it has one)"
            }
            Self::KmsDenied => {
                "allow kms:GenerateDataKey on the stream's key to the credentials, in the key's policy or theirs"
            }
            Self::KmsDisabled => "enable the stream's KMS key",
            Self::KmsInvalidState => {
                "bring the stream's KMS key back into the state Enabled (it may be pending deletion or import)"
            }
            Self::KmsNotFound => {
                "the stream's KMS key is gone or its alias leads nowhere: encrypt the stream with a key that exists"
            }
            Self::KmsOptIn => "let the account use AWS KMS",
            Self::StreamMissing => "create it, or correct stream_name, stream_arn or region",
            Self::StreamNotActive => "wait until its status is ACTIVE",
            Self::KeysIgnored => {
                "set the stream's record distribution strategy to PARTITION_KEY: with AUTO no order can be kept"
            }
            Self::Throttled => {
                "find who else calls so often in this account, or ask for a higher quota"
            }
            Self::Network => {
                "check DNS, routes, proxies, VPC endpoints and certificates between the relay and the endpoint"
            }
            Self::ServiceFailure => "wait; see the AWS health dashboard if it lasts",
            Self::Refused => "see what the service says",
        }
    }
}

/// Adds to a failure by how much the local clock differs from the service's
/// (`skew` in seconds, positive when the local one is ahead), where that may be
/// its cause.
#[must_use]
pub fn with_clock_skew(failure: CallFailure, skew: Option<i64>) -> CallFailure {
    let (CallFailure::Credentials { code, message }, Some(skew)) = (&failure, skew) else {
        return failure;
    };
    let is_named = TroubleKind::of(&failure) == Some(TroubleKind::ClockSkew);
    let is_suspicious = skew.unsigned_abs() >= SUSPICIOUS_SKEW_SECONDS
        && TroubleKind::of(&failure) == Some(TroubleKind::CredentialsRefused);
    if !is_named && !is_suspicious {
        return failure;
    }
    let side = if skew < 0 { "behind" } else { "ahead of" };
    let seconds = skew.unsigned_abs();
    let advice = TroubleKind::ClockSkew.what_to_do();
    CallFailure::Credentials {
        code: code.clone(),
        message: format!("{CLOCK} {seconds} s {side} the service's: {advice} ({message})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::classify::{Action, Call, RawFailure, classify};

    const PUT: Call<'_> = Call {
        action: Action::PutRecords,
        stream: "arn:aws:kinesis:us-east-1:000000000000:stream/orders",
    };

    fn failure(code: &str, message: &str) -> CallFailure {
        let raw = RawFailure::Service {
            code: code.to_owned(),
            status: 400,
            message: message.to_owned(),
        };
        classify(PUT, raw)
    }

    #[track_caller]
    fn check(code: &str, message: &str, kind: &str, says: &str) {
        let failure = failure(code, message);
        let found = TroubleKind::of(&failure).map(TroubleKind::name);
        assert_eq!(found, Some(kind), "{code}");
        let text = failure.to_string();
        assert!(text.contains(says), "{text}");
    }

    #[test]
    fn every_kind_is_told_by_its_code_and_says_what_to_do() {
        check(
            "ExpiredTokenException",
            "",
            "credentials_expired",
            "renew them",
        );
        check(
            "UnrecognizedClientException",
            "",
            "credentials_refused",
            "replace the key",
        );
        check(
            "InvalidSignatureException",
            "no match",
            "credentials_refused",
            "no match",
        );
        check("RequestExpired", "", "clock_skew", "NTP");
        check("RequestInTheFuture", "", "clock_skew", "NTP");
        let expired = "Signature expired: 20260101T000000Z is now earlier than 20260101T001000Z";
        check("InvalidSignatureException", expired, "clock_skew", "NTP");
        check(
            "AccessDeniedException",
            "",
            "access_denied",
            "kinesis:PutRecords",
        );
        check("AccessDeniedException", "", "access_denied", PUT.stream);
        check(
            "KMSAccessDeniedException",
            "",
            "kms_denied",
            "kms:GenerateDataKey",
        );
        check("KMSDisabledException", "", "kms_disabled", "enable");
        check(
            "KMSInvalidStateException",
            "",
            "kms_invalid_state",
            "Enabled",
        );
        check(
            "KMSNotFoundException",
            "",
            "kms_not_found",
            "key that exists",
        );
        check("KMSOptInRequired", "", "kms_opt_in", "AWS KMS");
        check("KMSThrottlingException", "slow", "throttled", "slow");
        check(
            "ResourceNotFoundException",
            "",
            "stream_missing",
            "create it",
        );
        check("SomethingNew", "", "refused", "SomethingNew");
        check("InternalFailure", "", "service_failure", "InternalFailure");
        assert_eq!(TroubleKind::of(&failure("ValidationException", "")), None);
    }

    #[test]
    fn what_never_answered_is_the_network() {
        let reason = || "dns error".to_owned();
        for raw in [
            RawFailure::Dispatch { reason: reason() },
            RawFailure::Timeout { reason: reason() },
        ] {
            let failure = classify(PUT, raw);
            assert_eq!(TroubleKind::of(&failure), Some(TroubleKind::Network));
            assert!(failure.to_string().contains("check DNS"), "{failure}");
        }
        let page = RawFailure::ResponseUnreadable {
            status: 200,
            reason: reason(),
        };
        let kind = TroubleKind::of(&classify(PUT, page));
        assert_eq!(kind, Some(TroubleKind::ServiceFailure));
        let none = RawFailure::CredentialsNotLoaded { reason: reason() };
        let kind = TroubleKind::of(&classify(PUT, none));
        assert_eq!(kind, Some(TroubleKind::CredentialsMissing));
    }

    #[test]
    fn a_measured_skew_is_said_and_tells_a_wrong_clock_from_a_wrong_key() {
        let kind = |failure: &CallFailure| TroubleKind::of(failure).map(TroubleKind::name);
        let ahead = with_clock_skew(failure("RequestInTheFuture", ""), Some(900));
        assert!(ahead.to_string().contains("900 s ahead of the service's"));
        let no_match = || failure("InvalidSignatureException", "no match");
        let behind = with_clock_skew(no_match(), Some(-600));
        assert_eq!(kind(&behind), Some("clock_skew"));
        assert!(behind.to_string().contains("600 s behind the service's"));
        let close = with_clock_skew(no_match(), Some(3));
        assert_eq!(kind(&close), Some("credentials_refused"));
        let expired = with_clock_skew(failure("ExpiredToken", ""), Some(900));
        assert_eq!(kind(&expired), Some("credentials_expired"));
        let denied = with_clock_skew(failure("AccessDenied", ""), Some(900));
        assert_eq!(denied, failure("AccessDenied", ""));
    }

    #[test]
    fn names_are_distinct() {
        let names: std::collections::HashSet<&str> =
            TroubleKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), TroubleKind::ALL.len());
    }
}
