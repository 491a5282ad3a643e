//! What decides which AWS client a pipeline uses: one client is shared by all
//! pipelines with an equal [`ClientSpec`].

pub use super::secret::Secret;

/// Where credentials come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CredentialSource {
    /// The SDK's default chain: environment, profile, SSO, web identity,
    /// container and instance metadata.
    DefaultChain,
    /// Keys given by the pipeline.
    Static {
        /// The id of the key.
        access_key_id: String,
        /// The key.
        secret_access_key: Secret,
        /// The token of temporary keys.
        session_token: Option<Secret>,
    },
}

/// One AWS client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientSpec {
    /// The region; `None` leaves it to the SDK (`AWS_REGION`, profile, metadata).
    pub region: Option<String>,
    /// The service's URL; `None` leaves it to the SDK (`AWS_ENDPOINT_URL`, else
    /// the region's own).
    pub endpoint_url: Option<String>,
    /// Whose credentials sign the calls.
    pub credentials: CredentialSource,
    /// A role to assume with them.
    pub role_arn: Option<String>,
    /// The external id that role's trust policy asks for.
    pub external_id: Option<String>,
}
