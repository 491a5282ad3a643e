//! AWS clients, one per distinct [`ClientSpec`], shared by everybody who asks
//! for an equal one.
//!
//! Rules:
//! - The SDK never tries a Kinesis call twice: retries belong to the writer, who
//!   keeps the order of each key. Credential providers (STS, SSO, IMDS) keep the
//!   SDK's own retries.
//! - Every call ends within [`KinesisTimeouts::operation`].
//! - All clients share one pool of HTTPS connections (HTTP/1.1, or HTTP/2 where
//!   the endpoint offers it).
//! - A client that nobody has asked for in ten minutes is dropped with its keys:
//!   rotated ones would pile up.
//! - A custom endpoint is for Kinesis alone: credentials are never fetched from it.
//! - When the service does not accept the credentials, [`ClientPool::renew`] makes
//!   the next call load them afresh (rotated files, replaced web identity tokens).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::sts::AssumeRoleProvider;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::config::{SharedHttpClient, StalledStreamProtectionConfig};
use aws_smithy_http_client::Builder as HttpClientBuilder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::config::client_spec::{ClientSpec, CredentialSource};

/// How long an idle connection is kept. Shorter than the 350 s after which NAT
/// gateways and load balancers of AWS forget a connection silently, so that a
/// call never waits for its time-out on a dead one; long enough for writers that
/// send a few times a minute to reuse theirs.
const IDLE_CONNECTION: Duration = Duration::from_secs(50);

/// How many idle connections are kept per endpoint: one call is in flight per
/// shard, so this covers a stream of 256 busy shards.
const IDLE_CONNECTIONS_PER_HOST: usize = 256;

/// How long the environment, profile files and the instance's metadata may take
/// to say which region and credentials there are. A slow metadata service costs
/// up to 4 tries of 1 s for the region.
const LOAD_CONFIGURATION: Duration = Duration::from_secs(20);

/// A client is not built anew more often than this.
const RENEW_INTERVAL: Duration = Duration::from_secs(5);

/// A client that was not asked for in so long is dropped; should somebody come
/// back to it, it is built again.
const DROP_AFTER: Duration = Duration::from_secs(600);

/// How long calls may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KinesisTimeouts {
    /// From the start of a call to its whole answer, credentials included.
    pub operation: Duration,
    /// To open a TCP connection and shake hands.
    pub connect: Duration,
}

impl Default for KinesisTimeouts {
    /// 10 s for a call: a full one of 10 MiB still passes at 1 MiB/s, and a shard
    /// that does not answer holds up its keys no longer than that. 3 s for a
    /// connection: two lost SYN packets (1 s, then 2 s) fit in.
    fn default() -> Self {
        Self {
            operation: Duration::from_secs(10),
            connect: Duration::from_secs(3),
        }
    }
}

/// Why there is no client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Neither the pipeline nor the environment names a region.
    #[error(
        "no AWS region: set `region` of the pipeline, AWS_REGION, or the region of the AWS profile"
    )]
    NoRegion,
    /// The environment did not answer in time.
    #[error(
        "the AWS configuration was not loaded within {0:?}: set `region`, or make the metadata service reachable"
    )]
    TimedOut(Duration),
}

#[derive(Debug)]
struct Entry {
    since: Instant,
    asked_for: Mutex<Instant>,
    client: OnceCell<aws_sdk_kinesis::Client>,
}

impl Entry {
    fn asked_for(&self) -> MutexGuard<'_, Instant> {
        self.asked_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Shared {
    timeouts: Mutex<KinesisTimeouts>,
    http: SharedHttpClient,
    entries: Mutex<HashMap<ClientSpec, Arc<Entry>>>,
}

/// The clients in use. Cloning it is cheap and shares them.
#[derive(Debug, Clone)]
pub struct ClientPool {
    shared: Arc<Shared>,
}

impl ClientPool {
    /// An empty pool; clients are built when they are asked for.
    #[must_use]
    pub fn new(timeouts: KinesisTimeouts) -> Self {
        let http = HttpClientBuilder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .pool_idle_timeout(IDLE_CONNECTION)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_PER_HOST)
            .build_https();
        let shared = Shared {
            timeouts: Mutex::new(timeouts),
            http,
            entries: Mutex::new(HashMap::new()),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The client for `spec`: built the first time, then shared.
    ///
    /// # Errors
    /// [`ClientError`] when no region is known or the environment does not answer;
    /// asking again tries again.
    pub async fn client(&self, spec: &ClientSpec) -> Result<aws_sdk_kinesis::Client, ClientError> {
        let entry = self.entry(spec);
        entry
            .client
            .get_or_try_init(|| self.build(spec))
            .await
            .cloned()
    }

    /// Lets the next call for `spec` build its client anew, unless the present
    /// one is younger than 5 s.
    pub fn renew(&self, spec: &ClientSpec) {
        let mut entries = lock(&self.shared.entries);
        let is_old = |entry: &Arc<Entry>| entry.since.elapsed() >= RENEW_INTERVAL;
        if entries.get(spec).is_some_and(is_old) {
            entries.remove(spec);
        }
    }

    /// From the next call on these hold: all clients are built anew.
    pub fn set_timeouts(&self, timeouts: KinesisTimeouts) {
        let before = std::mem::replace(&mut *lock(&self.shared.timeouts), timeouts);
        if before != timeouts {
            lock(&self.shared.entries).clear();
        }
    }

    /// Forgets a client that nobody uses any more.
    pub fn forget(&self, spec: &ClientSpec) {
        lock(&self.shared.entries).remove(spec);
    }

    /// How many distinct clients there are.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.shared.entries).len()
    }

    /// Whether no client has been asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn entry(&self, spec: &ClientSpec) -> Arc<Entry> {
        let mut entries = lock(&self.shared.entries);
        let now = Instant::now();
        if let Some(entry) = entries.get(spec) {
            *entry.asked_for() = now;
            return Arc::clone(entry);
        }
        entries.retain(|_, entry| now.duration_since(*entry.asked_for()) < DROP_AFTER);
        let entry = Arc::new(Entry {
            since: now,
            asked_for: Mutex::new(now),
            client: OnceCell::new(),
        });
        entries.insert(spec.clone(), Arc::clone(&entry));
        entry
    }

    /// The configuration that the client for `spec` is built from.
    pub(super) async fn configuration(&self, spec: &ClientSpec) -> Result<SdkConfig, ClientError> {
        let timeouts = *lock(&self.shared.timeouts);
        let loading = Box::pin(load_configuration(spec, self.shared.http.clone(), timeouts));
        let configuration = tokio::time::timeout(LOAD_CONFIGURATION, loading)
            .await
            .map_err(|_| ClientError::TimedOut(LOAD_CONFIGURATION))?;
        if configuration.region().is_none() {
            return Err(ClientError::NoRegion);
        }
        Ok(configuration)
    }

    async fn build(&self, spec: &ClientSpec) -> Result<aws_sdk_kinesis::Client, ClientError> {
        let timeouts = *lock(&self.shared.timeouts);
        let configuration = self.configuration(spec).await?;
        let mut builder = aws_sdk_kinesis::config::Builder::from(&configuration)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeout_config(timeouts))
            // The operation's time-out bounds a stalled transfer too; a second
            // rule with its own grace period would only end calls earlier that
            // are slow but alive.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(endpoint_url) = &spec.endpoint_url {
            builder = builder.endpoint_url(endpoint_url);
        }
        let has_endpoint = spec.endpoint_url.is_some();
        tracing::debug!(region = ?configuration.region(), has_endpoint, role = ?spec.role_arn, "built an AWS client");
        Ok(aws_sdk_kinesis::Client::from_conf(builder.build()))
    }
}

/// A panic while it was locked left at worst a client that is built once more.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// There is one attempt per operation, so the attempt and the wait for the first
/// byte get the operation's bound.
fn timeout_config(timeouts: KinesisTimeouts) -> TimeoutConfig {
    TimeoutConfig::builder()
        .operation_timeout(timeouts.operation)
        .operation_attempt_timeout(timeouts.operation)
        .connect_timeout(timeouts.connect.min(timeouts.operation))
        .read_timeout(timeouts.operation)
        .build()
}

/// The environment's configuration, with what `spec` says instead of it.
async fn load_configuration(
    spec: &ClientSpec,
    http: SharedHttpClient,
    timeouts: KinesisTimeouts,
) -> SdkConfig {
    // Half of the operation's time-out, so that "no credentials" is said before
    // the operation gives up for lack of time.
    let load_credentials = timeouts.operation / 2;
    let identity_cache = IdentityCache::lazy().load_timeout(load_credentials).build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .identity_cache(identity_cache);
    if let Some(region) = &spec.region {
        loader = loader.region(Region::new(region.clone()));
    }
    match &spec.credentials {
        CredentialSource::DefaultChain => {}
        CredentialSource::Static {
            access_key_id,
            secret_access_key,
            session_token,
        } => {
            let session_token = session_token
                .as_ref()
                .map(|token| token.expose().to_owned());
            loader = loader.credentials_provider(Credentials::new(
                access_key_id,
                secret_access_key.expose(),
                session_token,
                None,
                "pipeline",
            ));
        }
    }
    let configuration = loader.load().await;
    let Some(role_arn) = &spec.role_arn else {
        return configuration;
    };
    let mut role = AssumeRoleProvider::builder(role_arn)
        .session_name("tidegate")
        .configure(&configuration);
    if let Some(external_id) = &spec.external_id {
        role = role.external_id(external_id);
    }
    let role = role.build().await;
    configuration
        .into_builder()
        .credentials_provider(aws_credential_types::provider::SharedCredentialsProvider::new(role))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(key: &str) -> ClientSpec {
        ClientSpec {
            region: None,
            endpoint_url: None,
            credentials: CredentialSource::Static {
                access_key_id: key.to_owned(),
                secret_access_key: crate::config::client_spec::Secret::new("secret".to_owned()),
                session_token: None,
            },
            role_arn: None,
            external_id: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rotated_keys_do_not_pile_up() {
        let pool = ClientPool::new(KinesisTimeouts::default());
        pool.entry(&spec("old"));
        pool.entry(&spec("kept"));
        tokio::time::advance(DROP_AFTER / 2).await;
        pool.entry(&spec("kept"));
        tokio::time::advance(DROP_AFTER / 2).await;
        pool.entry(&spec("new"));
        assert_eq!(pool.len(), 2, "the old keys are gone");
    }
}
