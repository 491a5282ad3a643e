//! Whose credentials a client signs with.
//!
//! `sts:GetCallerIdentity` needs no permission, so it tells a wrong key from a missing
//! permission. Where Kinesis is reached at a custom endpoint STS is not asked: such
//! credentials are made for that endpoint, and are nobody else's business.

use std::time::Duration;

use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_sts::config::timeout::TimeoutConfig;
use aws_sdk_sts::error::ProvideErrorMetadata;

use super::client::{ClientError, ClientPool};
use super::put::raw_failure;
use crate::config::client_spec::ClientSpec;
use crate::core::classify::RawFailure;

/// How long STS may take, with the SDK's own retries.
const PATIENCE: Duration = Duration::from_secs(10);

/// The codes by which STS refuses the credentials themselves.
const REFUSED: [&str; 6] = [
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "ExpiredTokenException",
    "UnrecognizedClientException",
    "IncompleteSignature",
];

/// What is known of an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// STS says who it is.
    Known {
        /// The ARN of the user or role.
        arn: String,
        /// The region of the client.
        region: String,
    },
    /// There are credentials; whose they are was not asked, or was not answered.
    Unasked {
        /// The end of the id of the access key.
        key: String,
        /// Why.
        reason: String,
    },
    /// STS does not accept them.
    Refused {
        /// What it says.
        reason: String,
    },
    /// There are none, or no client can be made.
    Missing {
        /// What was tried.
        reason: String,
    },
}

/// Finds out who signs for clients of this kind.
pub async fn of_client(pool: &ClientPool, spec: &ClientSpec) -> Identity {
    let configuration = match pool.configuration(spec).await {
        Ok(configuration) => configuration,
        Err(error @ (ClientError::NoRegion | ClientError::TimedOut(_))) => {
            let reason = error.to_string();
            return Identity::Missing { reason };
        }
    };
    let Some(provider) = configuration.credentials_provider() else {
        let reason = "no provider of credentials is set up".to_owned();
        return Identity::Missing { reason };
    };
    let credentials = match provider.provide_credentials().await {
        Ok(credentials) => credentials,
        Err(error) => {
            let reason = causes(&error);
            return Identity::Missing { reason };
        }
    };
    let key = end_of(credentials.access_key_id());
    if spec.endpoint_url.is_some() {
        let reason = "Kinesis is reached at a custom endpoint, so STS is not asked".to_owned();
        return Identity::Unasked { key, reason };
    }
    let timeouts = TimeoutConfig::builder().operation_timeout(PATIENCE).build();
    let sts = aws_sdk_sts::config::Builder::from(&configuration).timeout_config(timeouts);
    let sts = aws_sdk_sts::Client::from_conf(sts.build());
    match sts.get_caller_identity().send().await {
        Ok(identity) => Identity::Known {
            arn: identity.arn.unwrap_or_default(),
            region: configuration
                .region()
                .map_or_else(String::new, ToString::to_string),
        },
        Err(error) => {
            let code = error.code().unwrap_or_default().to_owned();
            let reason = said(raw_failure(&error));
            if REFUSED.contains(&code.as_str()) {
                return Identity::Refused { reason };
            }
            Identity::Unasked { key, reason }
        }
    }
}

fn said(failure: RawFailure) -> String {
    match failure {
        // As an emulator at AWS_ENDPOINT_URL does, which knows of Kinesis alone.
        RawFailure::Service { code, .. } if code.is_empty() => {
            "what answers in the place of STS is not STS".to_owned()
        }
        RawFailure::Service { code, message, .. } => format!("STS answers {code}: {message}"),
        RawFailure::Timeout { reason }
        | RawFailure::Dispatch { reason }
        | RawFailure::CredentialsNotLoaded { reason }
        | RawFailure::ResponseUnreadable { reason, .. }
        | RawFailure::Construction { reason } => format!("STS does not answer: {reason}"),
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Enough of an id to tell keys apart.
fn end_of(id: &str) -> String {
    let length = id.chars().count();
    let end: String = id.chars().skip(length.saturating_sub(4)).collect();
    format!("...{end}")
}
