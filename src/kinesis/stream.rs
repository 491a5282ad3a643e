//! One stream through one client: describe it, list its open shards, put records.
//!
//! A call is made once; what it came back with is the caller's to act on. When
//! the service does not accept the credentials, the client is renewed so that
//! the next call loads them afresh: the SDK itself keeps what it has loaded until
//! the time it was told it expires, whatever the service says. When only the
//! clock is wrong the client is kept: it has learnt by how much.

mod checkup;

use std::collections::HashSet;
use std::fmt;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::ProvideErrorMetadata;
use aws_sdk_kinesis::operation::list_shards::ListShardsOutput;
use aws_sdk_kinesis::types::{RecordDistributionStrategy, ShardFilter, ShardFilterType};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::client::ClientPool;
use super::put::{failure_of, outcomes_of, request_entries};
use crate::config::client_spec::ClientSpec;
use crate::core::classify::{Action, Call, RawFailure, classify};
use crate::core::ports::{CallFailure, PutRecord, RecordOutcome, StreamDescription, StreamService};
use crate::core::shard_map::{HashRange, Shard, ShardId};
use crate::core::trouble::TroubleKind;

pub use checkup::Checkup;

/// The service's default for `MaxRecordSizeInKiB`.
const DEFAULT_MAX_RECORD_KIB: usize = 1024;

/// The most shards ListShards gives in one page; also its default.
const SHARDS_PER_PAGE: i32 = 1000;

/// A list of shards longer than this many pages means that the paging goes round
/// in circles: a stream has at most 20,000 shards by default.
const MOST_PAGES: usize = 1000;

/// Which stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StreamTarget {
    /// By name, in the account of the credentials.
    Name(String),
    /// By ARN, in any account.
    Arn(String),
}

impl StreamTarget {
    fn name(&self) -> Option<String> {
        match self {
            Self::Name(name) => Some(name.clone()),
            Self::Arn(_) => None,
        }
    }

    fn arn(&self) -> Option<String> {
        match self {
            Self::Name(_) => None,
            Self::Arn(arn) => Some(arn.clone()),
        }
    }

    /// The region an ARN names: `arn:aws:kinesis:REGION:account:stream/name`.
    fn region(&self) -> Option<String> {
        let arn = self.arn()?;
        let region = arn.split(':').nth(3)?;
        (!region.is_empty()).then(|| region.to_owned())
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Name(text) | Self::Arn(text) => text,
        }
    }
}

impl fmt::Display for StreamTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a page of ListShards begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Page {
    /// The first one.
    First,
    /// The one a token stands for; the request carries nothing else.
    Token(String),
    /// The one after a shard, for services that refuse a bare token.
    After(String),
}

/// A stream as the writers use it.
#[derive(Debug, Clone)]
pub struct KinesisStream {
    pool: ClientPool,
    spec: ClientSpec,
    target: StreamTarget,
    page_size: i32,
}

impl KinesisStream {
    /// A stream through the pool's client for `spec`. An ARN's region stands in
    /// for one that `spec` does not name.
    #[must_use]
    pub fn new(pool: ClientPool, mut spec: ClientSpec, target: StreamTarget) -> Self {
        if spec.region.is_none() {
            spec.region = target.region();
        }
        Self {
            pool,
            spec,
            target,
            page_size: SHARDS_PER_PAGE,
        }
    }

    /// Asks for shorter pages of shards (1 to 1000 a page).
    #[must_use]
    pub fn with_shards_per_page(mut self, page_size: u16) -> Self {
        self.page_size = i32::from(page_size).clamp(1, SHARDS_PER_PAGE);
        self
    }

    /// What its client is made of: an ARN's region stands in it.
    #[must_use]
    pub const fn client_spec(&self) -> &ClientSpec {
        &self.spec
    }

    /// Nobody writes through its client any more.
    pub fn forget_client(&self) {
        self.pool.forget(&self.spec);
    }

    fn call(&self, action: Action) -> Call<'_> {
        Call {
            action,
            stream: self.target.as_str(),
        }
    }

    async fn client(&self, call: Call<'_>) -> Result<Client, CallFailure> {
        self.pool.client(&self.spec).await.map_err(|error| {
            let reason = error.to_string();
            classify(call, RawFailure::Construction { reason })
        })
    }

    /// Reacts to what concerns the client rather than the records.
    fn note<T>(&self, result: Result<T, CallFailure>) -> Result<T, CallFailure> {
        let kind = result.as_ref().err().and_then(TroubleKind::of);
        if kind.is_some_and(TroubleKind::wants_credentials) {
            self.pool.renew(&self.spec);
        }
        result
    }

    async fn describe_once(&self) -> Result<StreamDescription, CallFailure> {
        let call = self.call(Action::DescribeStreamSummary);
        let client = self.client(call).await?;
        let answer = client
            .describe_stream_summary()
            .set_stream_name(self.target.name())
            .set_stream_arn(self.target.arn())
            .send()
            .await
            .map_err(|error| failure_of(call, &error))?;
        let Some(summary) = answer.stream_description_summary else {
            let reason = "no StreamDescriptionSummary in it".to_owned();
            return Err(classify(
                call,
                RawFailure::ResponseUnreadable {
                    status: 200,
                    reason,
                },
            ));
        };
        let max_record_kib = summary
            .max_record_size_in_kib
            .and_then(|kib| usize::try_from(kib).ok())
            .filter(|kib| *kib > 0)
            .unwrap_or(DEFAULT_MAX_RECORD_KIB);
        let status = summary.stream_status.as_str().to_owned();
        let strategy = summary.record_distribution_strategy.as_ref();
        Ok(StreamDescription {
            arn: summary.stream_arn,
            created_at_ms: summary.stream_creation_timestamp.to_millis().ok(),
            writable: status == "ACTIVE" || status == "UPDATING",
            status,
            max_record_bytes: max_record_kib * 1024,
            ignores_keys: strategy == Some(&RecordDistributionStrategy::Auto),
        })
    }

    async fn list_open_shards_once(&self) -> Result<Vec<Shard>, CallFailure> {
        let call = self.call(Action::ListShards);
        let client = self.client(call).await?;
        let mut open = Vec::new();
        let mut seen = HashSet::new();
        let mut last_seen = None;
        let mut page = Page::First;
        let mut filter = Some(only_open_shards(call)?);
        for _ in 0..MOST_PAGES {
            let answer = match self.list_page(&client, &page, filter.clone()).await {
                Ok(answer) => answer,
                Err(error) => {
                    let not_understood = is_not_understood(&error);
                    page = match (page, last_seen.clone()) {
                        // A service that does not know the filter: closed shards
                        // are left out here, too.
                        (Page::First, _) if not_understood && filter.is_some() => {
                            filter = None;
                            Page::First
                        }
                        // A service that wants the stream with every token.
                        (Page::Token(_), Some(last)) if not_understood => Page::After(last),
                        (Page::First | Page::Token(_) | Page::After(_), _) => {
                            return Err(failure_of(call, &error));
                        }
                    };
                    continue;
                }
            };
            for shard in answer.shards.unwrap_or_default() {
                last_seen = Some(shard.shard_id.clone());
                let is_closed = shard
                    .sequence_number_range
                    .as_ref()
                    .is_some_and(|range| range.ending_sequence_number.is_some());
                if seen.insert(shard.shard_id.clone()) && !is_closed {
                    open.push(shard_of(call, &shard)?);
                }
            }
            match answer.next_token {
                Some(token) => page = Page::Token(token),
                None => return Ok(open),
            }
        }
        let reason = format!("more than {MOST_PAGES} pages of shards");
        Err(classify(
            call,
            RawFailure::ResponseUnreadable {
                status: 200,
                reason,
            },
        ))
    }

    async fn list_page(
        &self,
        client: &Client,
        page: &Page,
        filter: Option<ShardFilter>,
    ) -> Result<ListShardsOutput, ListShardsFailure> {
        let request = client.list_shards().max_results(self.page_size);
        let request = match page {
            Page::First => request
                .set_stream_name(self.target.name())
                .set_stream_arn(self.target.arn())
                .set_shard_filter(filter),
            Page::Token(token) => request.next_token(token),
            Page::After(shard) => request
                .set_stream_name(self.target.name())
                .set_stream_arn(self.target.arn())
                .set_shard_filter(filter)
                .exclusive_start_shard_id(shard),
        };
        request.send().await
    }

    async fn put_once(&self, records: Vec<PutRecord>) -> Result<Vec<RecordOutcome>, CallFailure> {
        let call = self.call(Action::PutRecords);
        let client = self.client(call).await?;
        let sent = records.len();
        let answer = client
            .put_records()
            .set_stream_name(self.target.name())
            .set_stream_arn(self.target.arn())
            .set_records(Some(request_entries(call, records)?))
            .send()
            .await
            .map_err(|error| failure_of(call, &error))?;
        outcomes_of(call, sent, answer)
    }
}

type ListShardsFailure = aws_sdk_kinesis::error::SdkError<
    aws_sdk_kinesis::operation::list_shards::ListShardsError,
    aws_sdk_kinesis::config::http::HttpResponse,
>;

fn only_open_shards(call: Call<'_>) -> Result<ShardFilter, CallFailure> {
    let filter = ShardFilter::builder()
        .r#type(ShardFilterType::AtLatest)
        .build();
    filter.map_err(|error| {
        let reason = error.to_string();
        classify(call, RawFailure::Construction { reason })
    })
}

/// Whether the service answered that it does not know what was asked: emulators
/// do, about the filter and about a token without a stream.
fn is_not_understood(error: &ListShardsFailure) -> bool {
    let codes = [
        "InvalidArgumentException",
        "ValidationException",
        "SerializationException",
        "ResourceNotFoundException",
    ];
    error
        .as_service_error()
        .and_then(ProvideErrorMetadata::code)
        .is_some_and(|code| codes.contains(&code))
}

fn shard_of(call: Call<'_>, shard: &aws_sdk_kinesis::types::Shard) -> Result<Shard, CallFailure> {
    let bounds = shard.hash_key_range.as_ref().and_then(|range| {
        let first = range.starting_hash_key.parse().ok()?;
        let last = range.ending_hash_key.parse().ok()?;
        Some(HashRange { first, last })
    });
    let Some(range) = bounds else {
        let reason = format!(
            "shard {} has no hash key range of two numbers: {:?}",
            shard.shard_id, shard.hash_key_range
        );
        return Err(classify(
            call,
            RawFailure::ResponseUnreadable {
                status: 200,
                reason,
            },
        ));
    };
    let parents = [&shard.parent_shard_id, &shard.adjacent_parent_shard_id];
    let parents = parents
        .into_iter()
        .flatten()
        .map(|id| ShardId::from(id.as_str()))
        .collect();
    Ok(Shard {
        id: ShardId::from(shard.shard_id.as_str()),
        range,
        parents,
    })
}

impl StreamService for KinesisStream {
    fn describe(&self) -> BoxFuture<'_, Result<StreamDescription, CallFailure>> {
        async move { self.note(self.describe_once().await) }.boxed()
    }

    fn list_open_shards(&self) -> BoxFuture<'_, Result<Vec<Shard>, CallFailure>> {
        async move { self.note(self.list_open_shards_once().await) }.boxed()
    }

    fn put(
        &self,
        records: Vec<PutRecord>,
    ) -> BoxFuture<'_, Result<Vec<RecordOutcome>, CallFailure>> {
        async move { self.note(self.put_once(records).await) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_knows_its_region() {
        let arn = "arn:aws:kinesis:eu-west-1:000000000000:stream/orders";
        let target = StreamTarget::Arn(arn.to_owned());
        assert_eq!(target.region().as_deref(), Some("eu-west-1"));
        assert_eq!(StreamTarget::Name("orders".to_owned()).region(), None);
        assert_eq!(StreamTarget::Arn("orders".to_owned()).region(), None);
    }
}
