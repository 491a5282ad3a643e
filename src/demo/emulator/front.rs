//! What stands in front of the emulator's router: faults, counters, and the mutex
//! that lets one call in at a time.
//!
//! A call is read whole before anything else. It is applied in a task of its own,
//! so that a client that hangs up never leaves it half done.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header, request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use ferrokinesis::store::Store;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::rewrite::{LongKeys, without_refused};
use super::socket::Wire;
use crate::core::shard_map::{HashRange, Shard, ShardId, ShardMap, hash_key};
use crate::demo::faults::{Applied, CallFault, Faults, Operation};
use crate::demo::tally::{LoggedCall, LoggedRecord, Tally};

/// The largest request: 10 MiB of data grow by a third in base64, and every record
/// has some JSON round it.
pub(super) const MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;

const JSON: &str = "application/x-amz-json-1.1";

#[derive(Debug, Clone)]
pub(super) struct Front {
    faults: Arc<Faults>,
    tally: Arc<Tally>,
    store: StoreHandle,
    long_keys: Arc<LongKeys>,
    one_at_a_time: Arc<Mutex<()>>,
}

#[derive(Clone)]
struct StoreHandle(Store);

impl std::fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Front {
    pub(super) fn new(faults: Arc<Faults>, tally: Arc<Tally>, store: Store) -> Self {
        Self {
            faults,
            tally,
            store: StoreHandle(store),
            long_keys: Arc::default(),
            one_at_a_time: Arc::default(),
        }
    }
}

/// A whole answer.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(status: StatusCode, body: &Value) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(JSON));
        Self {
            status,
            headers,
            body: Bytes::from(body.to_string()),
        }
    }

    fn error(status: u16, code: &str) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let message = format!("{code} by order of the fault layer");
        Self::json(status, &json!({ "__type": code, "message": message }))
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        (self.status, self.headers, self.body).into_response()
    }
}

/// One record of a put that came in.
#[derive(Debug)]
struct Record {
    key: String,
    shard: Option<ShardId>,
    bytes: u64,
    data: Option<Bytes>,
    refused_with: Option<String>,
}

/// A call that came in.
#[derive(Debug)]
struct Call {
    operation: Operation,
    stream: Option<String>,
    head: request::Parts,
    body: Bytes,
    records: Vec<Record>,
    log_number: Option<u64>,
}

/// Serves one request: the middleware round the emulator's router.
pub(super) async fn serve(
    State(front): State<Front>,
    ConnectInfo(wire): ConnectInfo<Wire>,
    request: Request,
    next: Next,
) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_REQUEST_BYTES).await else {
        return Answer::error(413, "RequestEntityTooLargeException").into_response();
    };
    if front.faults.connections_refused() {
        return cut(&wire);
    }
    let mut call = read_call(head, body);
    let at = front.tally.now();
    front.tally.called(call.operation);
    let mut plan = front
        .faults
        .plan_call(call.operation, call.stream.as_deref());
    let faults = Arc::clone(&front.faults);
    let stream = call.stream.as_deref();
    let account = faults.account();
    let refusal = account.refusal(call.operation, stream, &call.head.headers);
    let poison = || faults.poison().refusal(call.operation, &call.body);
    plan.fault = refusal.or(plan.fault).or_else(poison);
    if !plan.delay.is_zero() {
        tokio::time::sleep(plan.delay).await;
    }
    if call.operation == Operation::PutRecords {
        front.look_at_records(&mut call).await;
    }
    let applied = plan
        .fault
        .as_ref()
        .map_or(Applied::First, CallFault::applied);
    call.log_number = front.log(&call, at, applied != Applied::Never, plan.fault.is_none());
    let answer = match applied {
        Applied::Never => None,
        Applied::First => {
            let applying = tokio::spawn(Box::pin(front.apply(call, next)));
            applying.await.ok()
        }
        Applied::Late(after) => {
            let applying = Box::pin(front.apply(call, next));
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                applying.await;
            });
            None
        }
    };
    let mut response = match (plan.fault, answer) {
        (None, Some(answer)) => answer.into_response(),
        (None, None) => Answer::error(500, "InternalFailure").into_response(),
        (Some(fault), _) => end_badly(&fault, &wire).await,
    };
    account.date(response.headers_mut());
    response
}

async fn end_badly(fault: &CallFault, wire: &Wire) -> Response {
    match fault {
        CallFault::Refuse { status, code, .. } => Answer::error(*status, code).into_response(),
        CallFault::Hang { hold, .. } => {
            tokio::time::sleep(*hold).await;
            cut(wire)
        }
        CallFault::Reset { .. } => cut(wire),
        CallFault::Garble { .. } => (StatusCode::OK, "<html>not json</html>").into_response(),
    }
}

fn cut(wire: &Wire) -> Response {
    wire.cut();
    StatusCode::SERVICE_UNAVAILABLE.into_response()
}

/// The fields that say which stream a call is about.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Named<'a> {
    #[serde(borrow)]
    stream_name: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "StreamARN")]
    stream_arn: Option<Cow<'a, str>>,
}

fn read_call(head: request::Parts, body: Bytes) -> Call {
    let target = head
        .headers
        .get("x-amz-target")
        .and_then(|target| target.to_str().ok());
    let operation = Operation::of_target(target.unwrap_or_default());
    let named: Option<Named<'_>> = serde_json::from_slice(&body).ok();
    let stream = named.and_then(|named| {
        let from_arn =
            |arn: Cow<'_, str>| arn.split_once(":stream/").map(|(_, name)| name.to_owned());
        named
            .stream_name
            .map(Cow::into_owned)
            .or_else(|| named.stream_arn.and_then(from_arn))
    });
    let mut call = Call {
        operation,
        stream,
        head,
        body,
        records: Vec::new(),
        log_number: None,
    };
    name_by_name(&mut call);
    call
}

/// The emulator takes an ARN for PutRecords only: elsewhere the name stands in.
fn name_by_name(call: &mut Call) {
    let takes_names_only = matches!(
        call.operation,
        Operation::DescribeStreamSummary | Operation::ListShards | Operation::GetShardIterator
    );
    let Some(stream) = call.stream.as_ref().filter(|_| takes_names_only) else {
        return;
    };
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(&call.body) else {
        return;
    };
    if fields.remove("StreamARN").is_some() {
        fields.insert("StreamName".to_owned(), Value::from(stream.as_str()));
        replace_body(call, Bytes::from(Value::Object(fields).to_string()));
    }
}

fn replace_body(call: &mut Call, body: Bytes) {
    call.head.headers.insert(
        header::CONTENT_LENGTH,
        header::HeaderValue::from(body.len()),
    );
    call.body = body;
}

/// A record's fields as they stand in the request.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawRecord<'a> {
    #[serde(borrow)]
    data: Cow<'a, str>,
    #[serde(borrow)]
    partition_key: Cow<'a, str>,
    #[serde(borrow)]
    explicit_hash_key: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawPut<'a> {
    #[serde(borrow)]
    records: Vec<RawRecord<'a>>,
}

// === impl Front ===

impl Front {
    /// Finds each record's shard, counts it, and decides which are refused here.
    async fn look_at_records(&self, call: &mut Call) {
        let map = self.shard_map(call.stream.as_deref()).await;
        let (logs, logs_data) = self.tally.logs();
        let Ok(put) = serde_json::from_slice::<RawPut<'_>>(&call.body) else {
            return;
        };
        let mut records = Vec::with_capacity(put.records.len());
        for (index, raw) in put.records.iter().enumerate() {
            let explicit = raw
                .explicit_hash_key
                .as_ref()
                .and_then(|key| key.parse().ok());
            let hash = explicit.unwrap_or_else(|| hash_key(&raw.partition_key));
            let shard = map.as_ref().map(|map| map.shard_of(hash).id.clone());
            let refused_with =
                self.faults
                    .plan_record(shard.as_ref(), hash, &raw.partition_key, index);
            records.push(Record {
                key: raw.partition_key.to_string(),
                shard,
                bytes: (decoded_len(&raw.data) + raw.partition_key.len()) as u64,
                data: (logs && logs_data).then(|| decode(&raw.data)).flatten(),
                refused_with,
            });
        }
        if let Some(stream) = &call.stream {
            let known = |record: &Record| Some((record.shard.clone()?, record.bytes));
            self.tally.offered(stream, records.iter().filter_map(known));
        }
        call.records = records;
    }

    /// The stream's open shards; `None` while there is no such stream.
    async fn shard_map(&self, stream: Option<&str>) -> Option<ShardMap> {
        let stream = self.store.0.get_stream(stream?).await.ok()?;
        let open = stream
            .shards
            .iter()
            .filter(|shard| shard.sequence_number_range.ending_sequence_number.is_none());
        let shard = |shard: &ferrokinesis::types::Shard| Shard {
            id: ShardId::from(shard.shard_id.as_str()),
            range: HashRange {
                first: shard.hash_key_range.start_u128(),
                last: shard.hash_key_range.end_u128(),
            },
            parents: Vec::new(),
        };
        ShardMap::new(open.map(shard).collect()).ok()
    }

    fn log(&self, call: &Call, at: Duration, applied: bool, answered: bool) -> Option<u64> {
        if !self.tally.logs().0 {
            return None;
        }
        let record = |record: &Record| LoggedRecord {
            shard: record.shard.clone(),
            key: record.key.clone(),
            data: record.data.clone(),
            code: None,
        };
        self.tally.log(LoggedCall {
            number: 0,
            at,
            operation: call.operation,
            stream: call.stream.clone(),
            records: call.records.iter().map(record).collect(),
            applied,
            answered,
        })
    }

    /// Lets the emulator do what the call asks, alone.
    async fn apply(self, mut call: Call, next: Next) -> Answer {
        let passing = call
            .records
            .iter()
            .filter(|record| record.refused_with.is_none())
            .count();
        let all_refused = passing == 0 && !call.records.is_empty();
        if passing < call.records.len() && !all_refused {
            let passes = call.records.iter().map(|one| one.refused_with.is_none());
            if let Some(body) = without_refused(&call.body, passes) {
                replace_body(&mut call, body);
            }
        }
        let has_long_keys = call.records.iter().any(|one| LongKeys::is_one(&one.key));
        if has_long_keys && let Some(body) = self.long_keys.stand_in(&call.body) {
            replace_body(&mut call, body);
        }
        let answer = if all_refused {
            Answer::json(
                StatusCode::OK,
                &json!({ "FailedRecordCount": 0, "Records": [] }),
            )
        } else {
            let _alone = self.one_at_a_time.lock().await;
            let request = Request::from_parts(call.head, Body::from(call.body));
            let (head, body) = next.run(request).await.into_parts();
            Answer {
                status: head.status,
                headers: head.headers,
                body: to_bytes(body, usize::MAX).await.unwrap_or_default(),
            }
        };
        if answer.status != StatusCode::OK {
            return answer;
        }
        match call.operation {
            Operation::PutRecords => {
                let stream = call.stream.as_deref();
                self.settle(stream, &call.records, call.log_number, answer)
            }
            Operation::DescribeStreamSummary => self.describe(answer),
            Operation::GetRecords => match self.long_keys.put_back(&answer.body) {
                Some(body) => Answer::json(StatusCode::OK, &body),
                None => answer,
            },
            Operation::Any
            | Operation::ListShards
            | Operation::GetShardIterator
            | Operation::Other => answer,
        }
    }

    /// Counts the results and puts those of refused records where they belong.
    fn settle(
        &self,
        stream: Option<&str>,
        records: &[Record],
        log_number: Option<u64>,
        answer: Answer,
    ) -> Answer {
        let Ok(Value::Object(mut fields)) = serde_json::from_slice(&answer.body) else {
            return answer;
        };
        let Some(Value::Array(results)) = fields.remove("Records") else {
            return answer;
        };
        let mut results = results.into_iter();
        let mut merged = Vec::with_capacity(records.len());
        let mut failed = 0_u64;
        for record in records {
            let result = match &record.refused_with {
                Some(code) => {
                    json!({ "ErrorCode": code, "ErrorMessage": "refused by the fault layer" })
                }
                None => results.next().unwrap_or(Value::Null),
            };
            let code = result.get("ErrorCode").and_then(Value::as_str);
            failed += u64::from(code.is_some());
            if let (Some(stream), Some(shard)) = (stream, &record.shard) {
                self.tally.settled(stream, shard, record.bytes, code);
            }
            merged.push(result);
        }
        if let Some(number) = log_number {
            let code = |result: &Value| Some(result.get("ErrorCode")?.as_str()?.to_owned());
            self.tally
                .log_codes(number, merged.iter().map(code).collect());
        }
        if records.iter().all(|record| record.refused_with.is_none()) {
            return answer;
        }
        Answer::json(
            StatusCode::OK,
            &json!({ "FailedRecordCount": failed, "Records": merged }),
        )
    }

    /// Puts in what descriptions are to say.
    fn describe(&self, answer: Answer) -> Answer {
        let described = self.faults.described();
        if described.is_empty() {
            return answer;
        }
        let Ok(mut body) = serde_json::from_slice::<Value>(&answer.body) else {
            return answer;
        };
        if let Some(summary) = body.get_mut("StreamDescriptionSummary") {
            for (field, value) in described {
                summary[field] = value;
            }
        }
        Answer::json(StatusCode::OK, &body)
    }
}

fn decoded_len(base64: &str) -> usize {
    let padding = base64
        .bytes()
        .rev()
        .take_while(|byte| *byte == b'=')
        .count();
    (base64.len() / 4 * 3).saturating_sub(padding)
}

fn decode(base64: &str) -> Option<Bytes> {
    base64::engine::general_purpose::STANDARD
        .decode(base64)
        .ok()
        .map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_how_long_base64_decodes() {
        for text in ["", "a", "ab", "abc", "abcd", "abcde"] {
            let encoded = base64::engine::general_purpose::STANDARD.encode(text);
            assert_eq!(decoded_len(&encoded), text.len(), "{text:?}");
            assert_eq!(decode(&encoded).as_deref(), Some(text.as_bytes()));
        }
    }
}
