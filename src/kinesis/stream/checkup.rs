//! What `tidegate doctor` asks of a stream. Nothing is ever stored: the one call that
//! could is made with a record that no shard takes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_sdk_kinesis::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kinesis::error::BoxError;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{
    EncryptionType, PutRecordsRequestEntry, RecordDistributionStrategy, StreamMode,
};

use super::{DEFAULT_MAX_RECORD_KIB, KinesisStream};
use crate::core::checkup::stream::{Encryption, StreamFacts, TriedPut};
use crate::core::classify::{Action, RawFailure, classify};
use crate::core::ports::CallFailure;
use crate::kinesis::clock;
use crate::kinesis::put::failure_of;

/// 2^128, the first number that is no hash key. It has the form of one (39 digits), so
/// the request passes the service's check of forms; which shard it belongs to is looked
/// up once the call is authorised and the stream is found, and no shard has it.
const NO_HASH_KEY: &str = "340282366920938463463374607431768211456";

/// The partition key of that record, for whoever finds it in a log.
const PROBE_KEY: &str = "tidegate-doctor";

/// The key that AWS keeps for Kinesis in every account.
const AWS_KEY: &str = "alias/aws/kinesis";

/// Everything that was asked.
#[derive(Debug)]
pub struct Checkup {
    /// What the service says of the stream.
    pub described: Result<StreamFacts, CallFailure>,
    /// How many shards are open.
    pub open_shards: Result<usize, CallFailure>,
    /// Whether records may be put.
    pub put: TriedPut,
    /// By how many seconds this machine's clock is ahead of the service's.
    pub clock_ahead: Option<i64>,
}

/// Notes by how much the clocks differ, from any answer.
#[derive(Debug, Clone, Default)]
struct ClockSeen(Arc<Mutex<Option<i64>>>);

impl ClockSeen {
    fn get(&self) -> Option<i64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for ClockSeen {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let ahead = date.and_then(|date| clock::skew(date, SystemTime::now()));
        if ahead.is_some() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ahead;
        }
        Ok(())
    }
}

impl KinesisStream {
    /// Asks everything, one call after the other.
    pub async fn check_up(&self) -> Checkup {
        let clock = ClockSeen::default();
        let described = self.describe_whole(&clock).await;
        let open_shards = self.list_open_shards_once().await;
        Checkup {
            described,
            open_shards: open_shards.map(|shards| shards.len()),
            put: self.try_put(&clock).await,
            clock_ahead: clock.get(),
        }
    }

    async fn describe_whole(&self, clock: &ClockSeen) -> Result<StreamFacts, CallFailure> {
        let call = self.call(Action::DescribeStreamSummary);
        let answer = self
            .client(call)
            .await?
            .describe_stream_summary()
            .set_stream_name(self.target.name())
            .set_stream_arn(self.target.arn())
            .customize()
            .interceptor(clock.clone())
            .send()
            .await
            .map_err(|error| failure_of(call, &error))?;
        let Some(summary) = answer.stream_description_summary else {
            let reason = "no StreamDescriptionSummary in it".to_owned();
            let status = 200;
            return Err(classify(
                call,
                RawFailure::ResponseUnreadable { status, reason },
            ));
        };
        let number = |number: Option<i32>| number.and_then(|number| usize::try_from(number).ok());
        let kib = number(summary.max_record_size_in_kib).filter(|kib| *kib > 0);
        let mode = summary
            .stream_mode_details
            .map(|details| details.stream_mode);
        let strategy = summary.record_distribution_strategy.as_ref();
        Ok(StreamFacts {
            status: summary.stream_status.as_str().to_owned(),
            mode: mode.as_ref().map(StreamMode::as_str).map(str::to_owned),
            max_record_bytes: kib.unwrap_or(DEFAULT_MAX_RECORD_KIB) * 1024,
            ignores_keys: strategy == Some(&RecordDistributionStrategy::Auto),
            encryption: encryption(summary.encryption_type.as_ref(), summary.key_id),
            open_shards: number(Some(summary.open_shard_count)),
        })
    }

    async fn try_put(&self, clock: &ClockSeen) -> TriedPut {
        let call = self.call(Action::PutRecords);
        let client = match self.client(call).await {
            Ok(client) => client,
            Err(failure) => return TriedPut::Failed(failure),
        };
        let record = PutRecordsRequestEntry::builder()
            .partition_key(PROBE_KEY)
            .explicit_hash_key(NO_HASH_KEY)
            .data(Blob::new(Vec::new()))
            .build();
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let reason = error.to_string();
                return TriedPut::Failed(classify(call, RawFailure::Construction { reason }));
            }
        };
        let answer = client
            .put_records()
            .set_stream_name(self.target.name())
            .set_stream_arn(self.target.arn())
            .records(record)
            .customize()
            .interceptor(clock.clone())
            .send()
            .await;
        match answer.map_err(|error| failure_of(call, &error)) {
            Ok(answer) => {
                let is_stored = answer.records.iter().any(|one| one.error_code.is_none());
                if is_stored {
                    TriedPut::Stored
                } else {
                    TriedPut::Refused
                }
            }
            Err(CallFailure::BadRecord { .. }) => TriedPut::Refused,
            Err(failure) => TriedPut::Failed(failure),
        }
    }
}

fn encryption(kind: Option<&EncryptionType>, key: Option<String>) -> Encryption {
    let is_none = kind.is_none_or(|kind| *kind == EncryptionType::None);
    match key {
        _ if is_none => Encryption::None,
        Some(key) if key.ends_with(AWS_KEY) => Encryption::AwsKey,
        Some(key) => Encryption::OwnKey(key),
        None => Encryption::OwnKey("(not named)".to_owned()),
    }
}
