//! What the relay is compared with, each a process of its own:
//!
//! | role | what it does |
//! |---|---|
//! | `read` | sqlx alone: reads pages of 2,000 rows, one after another, and looks at their texts |
//! | `limit` | the same pages, and as many bytes as the relay's put by the SDK, up to 64 calls of 500 records at once: no order, no budget, no position |
//! | `naive` | what people write: read 100 rows behind the last id, PutRecords, again for what failed, update the offset, one after another |

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use aws_smithy_http_client::Builder as HttpClientBuilder;
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{ConnectOptions, Connection, PgConnection, Row};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Failure;
use crate::figures::number;
use crate::role::{RoleProcess, end_with_parent, say};
use crate::usage::{most_resident_mib, processor_time};

/// The name of the role.
pub(crate) const REFERENCE: &str = "reference";

/// Rows of a page, as the relay reads them.
const PAGE: i64 = 2000;

/// Rows the naive relay reads at once.
const NAIVE_PAGE: i64 = 100;

/// Records of a call.
const RECORDS: usize = 500;

/// Calls under way at once: one for each shard of the stream the goals speak of.
const CALLS: usize = 64;

/// Pages read ahead of the calls.
const PAGES_AHEAD: usize = 8;

/// What the relay's body of format `native` has around the texts of a row, with an
/// outbox's name of six characters and ids of six digits.
const ENVELOPE: usize = 198;

const READ: &str = "SELECT id, dedup_key, payload::text, headers::text, created_at
    FROM tide.outbox_message WHERE outbox_id = $1 AND id > $2 ORDER BY id LIMIT $3";

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Read,
    Limit,
    Naive,
}

/// What it works on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReferenceOptions {
    pub(crate) kind: Kind,
    /// The database.
    pub(crate) url: String,
    /// The service.
    pub(crate) endpoint: String,
    pub(crate) outbox: i32,
    /// When it ends even if there are rows left, in seconds.
    pub(crate) most_seconds: f64,
}

/// What it did.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ReferenceResult {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// Of those that put: by the sink's clock in the end, from the first call to the last
    /// answer, as the relay's.
    pub(crate) seconds: f64,
    pub(crate) processor_seconds: f64,
    pub(crate) resident_mib: f64,
}

impl ReferenceResult {
    /// Rows a second.
    pub(crate) fn rate(&self) -> f64 {
        number(self.rows) / self.seconds
    }
}

/// Runs one as a process of its own.
///
/// # Errors
/// It fails.
pub(crate) async fn run_reference(options: &ReferenceOptions) -> Result<ReferenceResult, Failure> {
    RoleProcess::start(REFERENCE, options)?.answer().await
}

/// Runs the role.
pub(crate) fn run(options: &str) -> Result<(), Failure> {
    let options: ReferenceOptions = serde_json::from_str(options)?;
    end_with_parent();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(options))
}

async fn measure(options: ReferenceOptions) -> Result<(), Failure> {
    let connect: PgConnectOptions = options.url.parse()?;
    let connection = PgConnection::connect_with(&connect.disable_statement_logging()).await?;
    let client = client(&options.endpoint);
    let started = Instant::now();
    let mut first_page = None;
    let (rows, bytes) = match options.kind {
        Kind::Read => read(connection, &options, &mut first_page).await?,
        Kind::Limit => limit(connection, client, &options).await?,
        Kind::Naive => naive(connection, client, &options).await?,
    };
    let pid = std::process::id();
    say(&ReferenceResult {
        rows,
        bytes,
        seconds: first_page.unwrap_or(started).elapsed().as_secs_f64(),
        processor_seconds: processor_time(pid)?.own,
        resident_mib: most_resident_mib(pid)?,
    })
}

fn client(endpoint: &str) -> Client {
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("bench", "bench", None, None, "bench"))
        .endpoint_url(endpoint)
        .retry_config(RetryConfig::disabled())
        .http_client(HttpClientBuilder::new().build_http())
        .build();
    Client::from_conf(config)
}

/// Reads pages one after another and gives each to `each`, until there are no more
/// rows or it is time.
async fn pages<F>(
    mut connection: PgConnection,
    options: &ReferenceOptions,
    size: i64,
    mut each: impl FnMut(Vec<PgRow>) -> F,
) -> Result<u64, Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let deadline = Instant::now() + Duration::from_secs_f64(options.most_seconds);
    let (mut last, mut read) = (0_i64, 0);
    while Instant::now() < deadline {
        let rows = sqlx::query(READ)
            .bind(options.outbox)
            .bind(last)
            .bind(size)
            .fetch_all(&mut connection)
            .await?;
        let Some(highest) = rows.last() else { break };
        last = highest.try_get(0)?;
        read += u64::try_from(rows.len())?;
        each(rows).await?;
    }
    connection.close().await?;
    Ok(read)
}

/// Neither the first page nor the time until it came counts: the others' time begins
/// with their first call, which is after theirs.
async fn read(
    connection: PgConnection,
    options: &ReferenceOptions,
    first_page: &mut Option<Instant>,
) -> Result<(u64, u64), Failure> {
    let (mut bytes, mut of_first) = (0, 0);
    let rows = pages(connection, options, PAGE, |rows| {
        if first_page.is_none() {
            *first_page = Some(Instant::now());
            of_first = rows.len();
            return std::future::ready(Ok(()));
        }
        let read: Result<usize, Failure> = rows.iter().map(length_of).sum();
        bytes += read.as_ref().copied().unwrap_or(0);
        std::future::ready(read.map(|_| ()))
    });
    let rows = rows.await? - u64::try_from(of_first)?;
    Ok((rows, u64::try_from(bytes)?))
}

/// The bytes of the texts of a row, which are decoded and not copied.
fn length_of(row: &PgRow) -> Result<usize, Failure> {
    let texts = (1..=3).map(|column| Ok(row.try_get::<&str, _>(column)?.len()));
    texts.sum()
}

async fn limit(
    connection: PgConnection,
    client: Client,
    options: &ReferenceOptions,
) -> Result<(u64, u64), Failure> {
    let (sender, mut receiver) = mpsc::channel::<Vec<PgRow>>(PAGES_AHEAD);
    let putting = tokio::spawn(async move {
        let calls = Arc::new(Semaphore::new(CALLS));
        let mut running: JoinSet<Result<usize, Failure>> = JoinSet::new();
        let mut bytes = 0;
        while let Some(rows) = receiver.recv().await {
            for chunk in rows.chunks(RECORDS) {
                let place = Arc::clone(&calls).acquire_owned().await?;
                let records = chunk.iter().map(record_of).collect::<Result<Vec<_>, _>>()?;
                let client = client.clone();
                running.spawn(async move {
                    let bytes = records.iter().map(weight).sum();
                    let answer = put(&client, records).await?;
                    drop(place);
                    if answer > 0 {
                        return Err("a sink without limits turned records away".into());
                    }
                    Ok(bytes)
                });
                while let Some(done) = running.try_join_next() {
                    bytes += done??;
                }
            }
        }
        while let Some(done) = running.join_next().await {
            bytes += done??;
        }
        Ok::<usize, Failure>(bytes)
    });
    let rows = pages(connection, options, PAGE, |rows| {
        let sender = sender.clone();
        async move { Ok(sender.send(rows).await?) }
    });
    let rows = rows.await?;
    drop(sender);
    Ok((rows, u64::try_from(putting.await??)?))
}

async fn naive(
    mut connection: PgConnection,
    client: Client,
    options: &ReferenceOptions,
) -> Result<(u64, u64), Failure> {
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS naive_offset (only_row bool PRIMARY KEY DEFAULT true, last bigint);
        INSERT INTO naive_offset (last) VALUES (0) ON CONFLICT DO NOTHING",
    )
    .execute(&mut connection)
    .await?;
    let deadline = Instant::now() + Duration::from_secs_f64(options.most_seconds);
    let (mut last, mut delivered, mut bytes) = (0_i64, 0, 0);
    while Instant::now() < deadline {
        let rows = sqlx::query(READ)
            .bind(options.outbox)
            .bind(last)
            .bind(NAIVE_PAGE)
            .fetch_all(&mut connection)
            .await?;
        let Some(highest) = rows.last() else { break };
        last = highest.try_get(0)?;
        let records = rows.iter().map(record_of).collect::<Result<Vec<_>, _>>()?;
        bytes += records.iter().map(weight).sum::<usize>();
        while put(&client, records.clone()).await? > 0 {}
        sqlx::query("UPDATE naive_offset SET last = $1")
            .bind(last)
            .execute(&mut connection)
            .await?;
        delivered += u64::try_from(rows.len())?;
    }
    connection.close().await?;
    Ok((delivered, u64::try_from(bytes)?))
}

/// Puts records and gives how many failed.
async fn put(client: &Client, records: Vec<PutRecordsRequestEntry>) -> Result<i32, Failure> {
    let answer = client
        .put_records()
        .stream_name("bench")
        .set_records(Some(records))
        .send()
        .await?;
    Ok(answer.failed_record_count().unwrap_or(0))
}

fn weight(record: &PutRecordsRequestEntry) -> usize {
    record.data().as_ref().len() + record.partition_key().map_or(0, str::len)
}

/// A record with as many bytes as the relay makes of the row.
fn record_of(row: &PgRow) -> Result<PutRecordsRequestEntry, Failure> {
    let key: String = row.try_get(1)?;
    let payload: String = row.try_get(2)?;
    let headers: String = row.try_get(3)?;
    let mut data = Vec::with_capacity(payload.len() + headers.len() + key.len() + ENVELOPE);
    data.extend_from_slice(payload.as_bytes());
    data.extend_from_slice(headers.as_bytes());
    data.resize(data.capacity(), b' ');
    Ok(PutRecordsRequestEntry::builder()
        .partition_key(key)
        .data(Blob::new(data))
        .build()?)
}
