//! A Kinesis of one's own on a loopback port: the `ferrokinesis` crate behind two
//! layers of ours.
//!
//! - A mutex: every call is read whole, then applied alone. Unmodified, a shard
//!   with several writers and a tailing reader hangs or hides records from the
//!   reader (numbers are given before the insert).
//! - Faults and counters ([`Faults`], [`Tally`]): what a service can do wrong, and
//!   what it saw.
//!
//! It runs on a thread and a runtime of its own, so that it serves a test, the
//! demo, and a relay that is another process, and outlives the runtime that
//! started it. It listens on 127.0.0.1 only.
//!
//! What it does otherwise than the service, with limits enforced: a fixed window
//! of one second per shard that counts data without partition keys (1,048,576
//! bytes, 1,000 records) and stores later records of a call after refusing earlier
//! ones; calls over 5 MiB and records over 1 MiB are refused; arrival times are
//! whole seconds; a shard that is behind may say it is not. Signatures are not
//! checked. Memory only grows, by about 0.5 KB a record.

mod front;
mod rewrite;
mod socket;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::middleware;
use ferrokinesis::create_app;
use ferrokinesis::store::StoreOptions;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::front::{Front, MAX_REQUEST_BYTES};
use self::socket::{BrittleListener, Wire};
use super::faults::Faults;
use super::tally::Tally;
use crate::config::client_spec::{ClientSpec, CredentialSource, Secret};
use crate::kinesis::client::{ClientError, ClientPool, KinesisTimeouts};

/// The region streams are in.
pub const REGION: &str = "us-east-1";

/// The keys clients sign with; any would do.
const ACCESS_KEY_ID: &str = "AKIAEMULATOR";
const SECRET_ACCESS_KEY: &str = "not-a-secret";

/// How long a stream takes to be made, changed or deleted.
const STREAM_CHANGE_MS: u64 = 20;

/// How long a new stream may take to become ACTIVE: far more than
/// `STREAM_CHANGE_MS`, for a machine under load.
const STREAM_READY: Duration = Duration::from_secs(20);

/// How long calls in flight may go on when the emulator stops.
const LAST_CALLS: Duration = Duration::from_millis(500);

/// What kind of Kinesis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmulatorOptions {
    /// Whether shards refuse what is over 1,000 records or 1 MiB in a second.
    pub enforce_limits: bool,
    /// How many open shards all streams may have together.
    pub shard_limit: u32,
    /// The port to listen on; `None` takes a free one.
    pub port: Option<u16>,
    /// What chance in faults comes from.
    pub seed: u64,
}

impl Default for EmulatorOptions {
    fn default() -> Self {
        Self {
            enforce_limits: true,
            shard_limit: 10_000,
            port: None,
            seed: 1,
        }
    }
}

/// Why the emulator does not run, or does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// The port cannot be listened on, or there are no threads.
    #[error("the kinesis emulator cannot start: {0}")]
    Start(#[from] std::io::Error),
    /// There is no client to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A stream could not be made.
    #[error("stream {stream} was not created: {reason}")]
    Stream {
        /// Its name.
        stream: String,
        /// What went wrong.
        reason: String,
    },
}

/// A running emulator; it stops when it is dropped.
#[derive(Debug)]
pub struct Emulator {
    address: SocketAddr,
    faults: Arc<Faults>,
    tally: Arc<Tally>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Emulator {
    /// Starts one. It is reachable when this returns.
    ///
    /// # Errors
    /// [`EmulatorError::Start`] when the port is taken or no thread can be had.
    pub fn start(options: &EmulatorOptions) -> Result<Self, EmulatorError> {
        let port = options.port.unwrap_or_default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("kinesis-emulator")
            .enable_all()
            .build()?;
        let faults = Arc::new(Faults::new(options.seed));
        let tally = Arc::new(Tally::default());
        let (router, store) = {
            let _inside = runtime.enter();
            create_app(StoreOptions {
                create_stream_ms: STREAM_CHANGE_MS,
                delete_stream_ms: STREAM_CHANGE_MS,
                update_stream_ms: STREAM_CHANGE_MS,
                shard_limit: options.shard_limit,
                enforce_limits: options.enforce_limits,
                aws_region: REGION.to_owned(),
                ..StoreOptions::default()
            })
        };
        let front = Front::new(Arc::clone(&faults), Arc::clone(&tally), store);
        let router = router
            .layer(middleware::from_fn_with_state(front, front::serve))
            .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES));
        let service = router.into_make_service_with_connect_info::<Wire>();
        let listener = {
            let _inside = runtime.enter();
            BrittleListener::new(
                tokio::net::TcpListener::from_std(listener)?,
                Arc::clone(&faults),
            )
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = move || {
            runtime.block_on(async move {
                tokio::select! {
                    ended = axum::serve(listener, service) => {
                        tracing::error!(?ended, "the kinesis emulator ended by itself");
                    }
                    _asked_or_dropped = stopped => {}
                }
            });
            runtime.shutdown_timeout(LAST_CALLS);
        };
        let thread = std::thread::Builder::new()
            .name("kinesis-emulator".to_owned())
            .spawn(serving)?;
        Ok(Self {
            address,
            faults,
            tally,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The port it listens on.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// Its faults, to be switched.
    #[must_use]
    pub fn faults(&self) -> Arc<Faults> {
        Arc::clone(&self.faults)
    }

    /// What it saw.
    #[must_use]
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// What a client needs to reach it.
    #[must_use]
    pub fn client_spec(&self) -> ClientSpec {
        ClientSpec {
            region: Some(REGION.to_owned()),
            endpoint_url: Some(self.endpoint_url()),
            credentials: CredentialSource::Static {
                access_key_id: ACCESS_KEY_ID.to_owned(),
                secret_access_key: Secret::from(SECRET_ACCESS_KEY),
                session_token: None,
            },
            role_arn: None,
            external_id: None,
        }
    }

    /// The environment that leads a process with the default chain here.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint_url()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY.to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }

    /// A client to it, on the caller's runtime.
    ///
    /// # Errors
    /// [`EmulatorError::Client`] when the SDK cannot be set up.
    pub async fn client(&self) -> Result<aws_sdk_kinesis::Client, EmulatorError> {
        let pool = ClientPool::new(KinesisTimeouts::default());
        Ok(pool.client(&self.client_spec()).await?)
    }

    /// Makes a stream and waits until it is ACTIVE.
    ///
    /// # Errors
    /// [`EmulatorError::Stream`] when it exists, is over the shard limit, or does
    /// not become ACTIVE.
    pub async fn create_stream(&self, stream: &str, shards: u16) -> Result<(), EmulatorError> {
        let refused = |reason: String| EmulatorError::Stream {
            stream: stream.to_owned(),
            reason,
        };
        let client = self.client().await?;
        let request = client
            .create_stream()
            .stream_name(stream)
            .shard_count(i32::from(shards));
        if let Err(error) = request.send().await {
            return Err(refused(
                aws_sdk_kinesis::error::DisplayErrorContext(error).to_string(),
            ));
        }
        let deadline = Instant::now() + STREAM_READY;
        loop {
            let answer = client
                .describe_stream_summary()
                .stream_name(stream)
                .send()
                .await;
            let status = answer
                .ok()
                .and_then(|answer| answer.stream_description_summary);
            let status = status.map(|summary| summary.stream_status);
            if status == Some(aws_sdk_kinesis::types::StreamStatus::Active) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(refused(format!(
                    "its status is {status:?} after {STREAM_READY:?}"
                )));
            }
            tokio::time::sleep(Duration::from_millis(STREAM_CHANGE_MS)).await;
        }
    }

    /// Stops it; its data is gone. Dropping it does the same. For an outage that
    /// keeps the data see [`Faults::refuse_connections`].
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // The thread also ends when the sender is dropped.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the kinesis emulator panicked");
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.end();
    }
}
