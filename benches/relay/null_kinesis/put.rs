//! PutRecords and the two questions about a stream.

use std::borrow::Cow;
use std::cell::{RefCell, RefMut};
use std::fmt::Write;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tidegate::core::shard_map::hash_key;
use tokio::time::Instant;

use super::NullOptions;
use super::shards::Shards;
use super::tally::Tally;

/// The most records of a call.
const MOST_RECORDS: usize = 500;

/// The most bytes of a call, partition keys included.
const MOST_BYTES: u64 = 10 * 1024 * 1024;

/// What stands before a row's publishing time, as `jsonb` prints it.
const PUBLISHED_AT: &[u8] = b"\"at\": ";

#[derive(Deserialize)]
struct PutRecords<'a> {
    #[serde(rename = "Records", borrow)]
    records: Vec<Record<'a>>,
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(rename = "Data", borrow)]
    data: Cow<'a, str>,
    #[serde(rename = "PartitionKey", borrow)]
    key: Cow<'a, str>,
    #[serde(rename = "ExplicitHashKey", borrow)]
    hash: Option<Cow<'a, str>>,
}

/// An answer: a status of HTTP and a body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// The whole of it.
#[derive(Debug)]
pub(super) struct Sink {
    options: NullOptions,
    tally: RefCell<Tally>,
    shards: RefCell<Shards>,
}

// === impl Answer ===

impl Answer {
    pub(super) const fn ok(body: String) -> Self {
        Self { status: 200, body }
    }

    fn refused(code: &str, message: &str) -> Self {
        let body = serde_json::json!({"__type": code, "message": message});
        Self {
            status: 400,
            body: body.to_string(),
        }
    }
}

// === impl Sink ===

impl Sink {
    pub(super) fn new(options: NullOptions) -> Self {
        Self {
            options,
            tally: RefCell::default(),
            shards: RefCell::new(Shards::new(options.shards, options.limit)),
        }
    }

    pub(super) fn tally(&self) -> RefMut<'_, Tally> {
        self.tally.borrow_mut()
    }

    /// Answers a call.
    pub(super) async fn answer(&self, action: &str, body: &[u8]) -> Answer {
        match action {
            "PutRecords" => self.put(body).await,
            "ListShards" => Answer::ok(self.list()),
            "DescribeStreamSummary" => Answer::ok(self.describe(body)),
            other => Answer::refused("UnknownOperationException", other),
        }
    }

    async fn put(&self, body: &[u8]) -> Answer {
        let arrived = Instant::now();
        let call: PutRecords<'_> = match serde_json::from_slice(body) {
            Ok(call) => call,
            Err(error) => return Answer::refused("SerializationException", &error.to_string()),
        };
        if call.records.is_empty() || call.records.len() > MOST_RECORDS {
            return Answer::refused("ValidationException", "1 to 500 records");
        }
        if call.records.iter().map(Record::bytes).sum::<u64>() > MOST_BYTES {
            return Answer::refused("InvalidArgumentException", "more than 10 MiB");
        }
        self.tally().called(arrived);
        let mut published = Vec::new();
        let Some(answer) = self.store(arrived, &call.records, &mut published) else {
            return Answer::refused("InvalidArgumentException", "not a hash key");
        };
        let round_trip = Duration::from_millis(self.options.round_trip_ms);
        if !round_trip.is_zero() {
            tokio::time::sleep_until(arrived + round_trip).await;
        }
        self.tally().answered(&published);
        Answer::ok(answer)
    }

    /// Stores records, in the answer's words; nothing when one has a hash key that
    /// is none.
    fn store(
        &self,
        now: Instant,
        records: &[Record<'_>],
        published: &mut Vec<u64>,
    ) -> Option<String> {
        let mut shards = self.shards.borrow_mut();
        let mut tally = self.tally();
        let mut answer = String::with_capacity(32 + 128 * records.len());
        let mut bytes_before = vec![0; shards.all().len()];
        let mut failures = 0;
        answer.push_str("{\"Records\":[");
        for (index, record) in records.iter().enumerate() {
            if index > 0 {
                answer.push(',');
            }
            let hash = match &record.hash {
                Some(text) => text.parse().ok()?,
                None => hash_key(&record.key),
            };
            let place = shards.place(hash);
            let shard = shards.at(place);
            let bytes = record.bytes();
            if !shard.takes(now, bytes_before[place], bytes) {
                tally.throttled += 1;
                failures += 1;
                answer.push_str(
                    "{\"ErrorCode\":\"ProvisionedThroughputExceededException\",\
                     \"ErrorMessage\":\"Rate exceeded for shard\"}",
                );
                continue;
            }
            bytes_before[place] += bytes;
            if self.options.failure_rate > 0.0 && fastrand::f64() < self.options.failure_rate {
                tally.failed += 1;
                failures += 1;
                answer.push_str(
                    "{\"ErrorCode\":\"InternalFailure\",\"ErrorMessage\":\"Internal service failure.\"}",
                );
                continue;
            }
            tally.records += 1;
            tally.bytes += bytes;
            if self.options.measures_latency {
                note_publishing(&record.data, published);
            }
            answer.push_str("{\"SequenceNumber\":\"");
            shard.write_sequence(&mut answer);
            answer.push_str("\",\"ShardId\":\"");
            answer.push_str(&shard.id);
            answer.push_str("\"}");
        }
        // A String never refuses a write.
        let written = write!(answer, "],\"FailedRecordCount\":{failures}}}");
        debug_assert!(written.is_ok());
        Some(answer)
    }

    fn list(&self) -> String {
        let shards = self.shards.borrow();
        let described = shards.all().iter().map(|shard| {
            serde_json::json!({
                "ShardId": shard.id,
                "HashKeyRange": {
                    "StartingHashKey": shard.first.to_string(),
                    "EndingHashKey": shard.last.to_string(),
                },
                "SequenceNumberRange": {"StartingSequenceNumber": "49"},
            })
        });
        serde_json::json!({"Shards": described.collect::<Vec<_>>()}).to_string()
    }

    fn describe(&self, body: &[u8]) -> String {
        let asked: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let name = asked["StreamName"].as_str().unwrap_or("bench");
        serde_json::json!({"StreamDescriptionSummary": {
            "StreamName": name,
            "StreamARN": format!("arn:aws:kinesis:us-east-1:123456789012:stream/{name}"),
            "StreamStatus": "ACTIVE",
            "StreamModeDetails": {"StreamMode": "PROVISIONED"},
            "RetentionPeriodHours": 24,
            "StreamCreationTimestamp": 1.0,
            "EnhancedMonitoring": [],
            "OpenShardCount": self.options.shards,
            "MaxRecordSizeInKiB": 1024,
        }})
        .to_string()
    }
}

// === impl Record ===

impl Record<'_> {
    /// What it weighs: its data, which is base64 here, and its key.
    fn bytes(&self) -> u64 {
        let padding = self
            .data
            .bytes()
            .rev()
            .take_while(|byte| *byte == b'=')
            .count();
        let data = self.data.len() / 4 * 3 - padding.min(2);
        u64::try_from(data + self.key.len()).unwrap_or(u64::MAX)
    }
}

/// Notes when the rows of a record were published.
fn note_publishing(data: &str, published: &mut Vec<u64>) {
    let Ok(data) = STANDARD.decode(data) else {
        return;
    };
    let mut rest = data.as_slice();
    while let Some(at) = rest
        .windows(PUBLISHED_AT.len())
        .position(|window| window == PUBLISHED_AT)
    {
        rest = &rest[at + PUBLISHED_AT.len()..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
        let at = digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        // Rows of a backlog say 0: nobody waits for them.
        if at > 0 {
            published.push(at);
        }
    }
}
