//! A Kinesis that keeps nothing: it answers PutRecords as the service does (the shard
//! by the hash of the key, rising sequence numbers, limits of each shard), ListShards
//! and DescribeStreamSummary, and counts. One thread, so that its cost is small and
//! can be told apart.

mod connection;
mod put;
mod shards;
mod tally;

use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use self::put::Sink;
pub(crate) use self::tally::{Counts, Moment, micros_since_epoch};
use crate::Failure;
use crate::role::{RoleProcess, end_with_parent, say};

/// The name of the role.
pub(crate) const NULL_KINESIS: &str = "null-kinesis";

/// How it answers.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct NullOptions {
    /// Open shards of every stream.
    pub(crate) shards: u32,
    /// What a PutRecords call takes at least, in milliseconds.
    pub(crate) round_trip_ms: u64,
    /// What a shard takes, if there is a limit.
    pub(crate) limit: Option<ShardLimit>,
    /// The part of records that fail with `InternalFailure`, from 0 to 1.
    pub(crate) failure_rate: f64,
    /// Whether to look for the publishing time of each row (`"at": MICROSECONDS` in
    /// its payload) and note how long it took to be acknowledged.
    pub(crate) measures_latency: bool,
}

/// What a shard takes in a second, on average and at once.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ShardLimit {
    /// Records.
    pub(crate) records: f64,
    /// Bytes of data and partition keys.
    pub(crate) bytes: f64,
}

/// What AWS says of a shard.
pub(crate) const SERVICE_LIMIT: ShardLimit = ShardLimit {
    records: 1000.0,
    bytes: 1_048_576.0,
};

impl NullOptions {
    /// Without limits and failures.
    pub(crate) const fn unlimited(shards: u32, round_trip_ms: u64) -> Self {
        Self {
            shards,
            round_trip_ms,
            limit: None,
            failure_rate: 0.0,
            measures_latency: false,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    port: u16,
}

/// A null Kinesis that runs as a process of its own.
#[derive(Debug)]
pub(crate) struct NullKinesis {
    process: RoleProcess,
    port: u16,
}

// === impl NullKinesis ===

impl NullKinesis {
    /// Starts one.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) async fn start(options: NullOptions) -> Result<Self, Failure> {
        let mut process = RoleProcess::start(NULL_KINESIS, &options)?;
        let Ready { port } = process.answer().await?;
        Ok(Self { process, port })
    }

    /// Its URL.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its process id.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn pid(&self) -> Result<u32, Failure> {
        self.process.pid()
    }

    /// What it has counted so far.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn counts(&self) -> Result<Counts, Failure> {
        let body = connection::get(self.port, "/counts").await?;
        Ok(serde_json::from_str(&body)?)
    }

    /// How many records it has stored so far: cheaper than all counts.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn records(&self) -> Result<u64, Failure> {
        Ok(connection::get(self.port, "/records")
            .await?
            .trim()
            .parse()?)
    }

    /// Begins to count anew.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn reset(&self) -> Result<(), Failure> {
        connection::get(self.port, "/reset").await.map(|_| ())
    }
}

/// Runs the role.
pub(crate) fn run(options: &str) -> Result<(), Failure> {
    let options: NullOptions = serde_json::from_str(options)?;
    end_with_parent();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, serve(options))
}

async fn serve(options: NullOptions) -> Result<(), Failure> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    say(&Ready {
        port: listener.local_addr()?.port(),
    })?;
    let sink = Rc::new(Sink::new(options));
    tokio::task::spawn_local(sample(Rc::clone(&sink)));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let sink = Rc::clone(&sink);
        tokio::task::spawn_local(async move {
            // The other side has gone: nothing to do about it.
            let _closed = connection::serve(stream, &sink).await;
        });
    }
}

/// Notes the counts ten times a second.
async fn sample(sink: Rc<Sink>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        sink.tally().sample();
    }
}
