//! What decides which AWS client a pipeline uses: one client is shared by all
//! pipelines with an equal [`ClientSpec`].

use std::fmt;

/// A text that must not be shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where credentials come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CredentialSource {
    /// The SDK's default chain.
    DefaultChain,
    /// Keys given by the pipeline.
    Static {
        /// The id of the key.
        access_key_id: String,
        /// The key.
        secret_access_key: Secret,
        /// The token that goes with temporary keys.
        session_token: Option<Secret>,
    },
}

/// Everything that makes one client differ from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientSpec {
    /// The region; `None` takes the environment's.
    pub region: Option<String>,
    /// Another endpoint than AWS's own; `None` takes the environment's.
    pub endpoint_url: Option<String>,
    /// The credentials.
    pub credentials: CredentialSource,
    /// A role to assume with them.
    pub role_arn: Option<String>,
    /// The external id the role's trust policy asks for.
    pub external_id: Option<String>,
}
