//! From what the SDK returns to what the core knows: failed calls to
//! [`CallFailure`], answered records to [`RecordOutcome`].

use std::error::Error;
use std::time::SystemTime;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kinesis::config::http::HttpResponse;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::put_records::PutRecordsOutput;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, PutRecordsResultEntry};

use super::clock;
use crate::core::classify::{Call, RawFailure, classify, classify_record};
use crate::core::ports::{CallFailure, PutRecord, RecordOutcome};
use crate::core::shard_map::ShardId;
use crate::core::trouble::with_clock_skew;

/// How the SDK's cache of identities says that credentials did not come in time;
/// the error's type is private to it. Not seeing it makes the call `Unknown`,
/// which is safe.
const IDENTITY_TIMED_OUT: &str = "identity resolver timed out";

/// Says what a failed call means for its records.
pub fn failure_of<E>(call: Call<'_>, error: &SdkError<E, HttpResponse>) -> CallFailure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let answer = error.raw_response();
    let date = answer.and_then(clock::date);
    let skew = date.and_then(|date| clock::skew(date, SystemTime::now()));
    with_clock_skew(classify(call, raw_failure(error)), skew)
}

/// The SDK's error without the SDK's types.
pub fn raw_failure<E>(error: &SdkError<E, HttpResponse>) -> RawFailure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let reason = causes_of(error);
    if source_of::<CredentialsError>(error).is_some() || reason.contains(IDENTITY_TIMED_OUT) {
        return RawFailure::CredentialsNotLoaded { reason };
    }
    match error {
        SdkError::ConstructionFailure(_) => RawFailure::Construction { reason },
        SdkError::TimeoutError(_) => RawFailure::Timeout { reason },
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            RawFailure::Timeout { reason }
        }
        SdkError::DispatchFailure(_) => RawFailure::Dispatch { reason },
        SdkError::ResponseError(response) => RawFailure::ResponseUnreadable {
            status: response.raw().status().as_u16(),
            reason,
        },
        SdkError::ServiceError(answer) => RawFailure::Service {
            code: answer.err().code().unwrap_or_default().to_owned(),
            status: answer.raw().status().as_u16(),
            message: answer.err().message().unwrap_or_default().to_owned(),
        },
        // The enum is open: a kind of failure that a later SDK adds says nothing
        // about what was stored.
        _ => RawFailure::Dispatch { reason },
    }
}

/// An error and what caused it, in words. Their `Debug`, which the SDK's own
/// display adds, holds whole answers: those of STS and SSO carry credentials.
fn causes_of(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

fn source_of<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(current) = next {
        if let Some(found) = current.downcast_ref::<T>() {
            return Some(found);
        }
        next = current.source();
    }
    None
}

/// The records as the SDK takes them. The data is moved where this is its only
/// owner and copied once where the caller keeps it for a second try.
///
/// # Errors
/// When the SDK refuses to build a record: nothing was sent.
pub fn request_entries(
    call: Call<'_>,
    records: Vec<PutRecord>,
) -> Result<Vec<PutRecordsRequestEntry>, CallFailure> {
    let entry = |record: PutRecord| {
        PutRecordsRequestEntry::builder()
            .partition_key(&*record.key)
            .set_explicit_hash_key(record.explicit_hash_key.map(|hash| hash.to_string()))
            .data(Blob::new(Vec::from(record.data)))
            .build()
    };
    let entries: Result<Vec<_>, _> = records.into_iter().map(entry).collect();
    entries.map_err(|error| {
        let reason = error.to_string();
        classify(call, RawFailure::Construction { reason })
    })
}

/// One outcome per record, in order.
///
/// # Errors
/// `Unknown` when the answer does not have one result per record: nobody could
/// say which result belongs to which record.
pub fn outcomes_of(
    call: Call<'_>,
    sent: usize,
    output: PutRecordsOutput,
) -> Result<Vec<RecordOutcome>, CallFailure> {
    let results = output.records;
    if results.len() != sent {
        let reason = format!(
            "{sent} records were sent and {} results came back",
            results.len()
        );
        return Err(classify(
            call,
            RawFailure::ResponseUnreadable {
                status: 200,
                reason,
            },
        ));
    }
    // One name for all records of a call, which mostly go to one shard.
    let mut last: Option<ShardId> = None;
    let outcome = |result| outcome_of(result, &mut last);
    Ok(results.into_iter().map(outcome).collect())
}

fn outcome_of(result: PutRecordsResultEntry, last: &mut Option<ShardId>) -> RecordOutcome {
    if let Some(code) = &result.error_code {
        return classify_record(code, result.error_message.as_deref().unwrap_or_default());
    }
    match (result.shard_id, result.sequence_number) {
        (Some(shard), Some(sequence)) => {
            let known = last.take().filter(|last| *last.0 == *shard);
            let shard = known.unwrap_or_else(|| ShardId(shard.into()));
            *last = Some(shard.clone());
            RecordOutcome::Stored { shard, sequence }
        }
        (shard, sequence) => RecordOutcome::Failed {
            code: "IncompleteResult".to_owned(),
            message: format!(
                "neither an error code nor both of shard id ({shard:?}) and sequence number ({sequence:?})"
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::classify::Action;

    const PUT: Call<'_> = Call {
        action: Action::PutRecords,
        stream: "orders",
    };

    fn output(results: Vec<PutRecordsResultEntry>) -> PutRecordsOutput {
        PutRecordsOutput::builder()
            .set_records(Some(results))
            .build()
            .expect("an output")
    }

    #[test]
    fn an_answer_of_another_length_is_unknown() {
        let stored = PutRecordsResultEntry::builder()
            .shard_id("s")
            .sequence_number("1")
            .build();
        let failure = outcomes_of(PUT, 2, output(vec![stored])).expect_err("one is missing");
        assert!(
            matches!(failure, CallFailure::Unknown { .. }),
            "{failure:?}"
        );
    }

    #[test]
    fn results_keep_their_order_and_none_counts_as_stored_by_default() {
        let results = vec![
            PutRecordsResultEntry::builder()
                .shard_id("s")
                .sequence_number("1")
                .build(),
            PutRecordsResultEntry::builder()
                .error_code("ProvisionedThroughputExceededException")
                .build(),
            PutRecordsResultEntry::builder()
                .error_code("InternalFailure")
                .build(),
            PutRecordsResultEntry::builder().shard_id("s").build(),
        ];
        let outcomes = outcomes_of(PUT, 4, output(results)).expect("an answer");
        assert_eq!(
            outcomes[0],
            RecordOutcome::Stored {
                shard: "s".into(),
                sequence: "1".to_owned()
            }
        );
        assert_eq!(outcomes[1], RecordOutcome::Throttled);
        assert!(
            matches!(&outcomes[2], RecordOutcome::Failed { code, .. } if code == "InternalFailure")
        );
        assert!(matches!(&outcomes[3], RecordOutcome::Failed { .. }));
    }

    #[test]
    fn no_secret_of_an_answer_gets_into_an_error() {
        use aws_sdk_kinesis::error::ConnectorError;
        use aws_sdk_kinesis::operation::put_records::PutRecordsError;
        // What a proxy cut off: the answer to AssumeRole with its keys.
        let body = "<SecretAccessKey>sesame</SecretAccessKey><SessionToken>ope";
        let answer = || HttpResponse::new(200_u16.try_into().expect("a status"), body.into());
        let unreadable: SdkError<PutRecordsError, HttpResponse> =
            SdkError::response_error("unexpected end of the answer", answer());
        let credentials = CredentialsError::provider_error(unreadable);
        let connector = ConnectorError::other(Box::new(credentials), None);
        let failed: SdkError<PutRecordsError, HttpResponse> = SdkError::dispatch_failure(connector);
        let direct: SdkError<PutRecordsError, HttpResponse> =
            SdkError::response_error("unexpected end of the answer", answer());
        for error in [failed, direct] {
            let failure = failure_of(PUT, &error).to_string();
            assert!(
                failure.contains("unexpected end of the answer"),
                "{failure}"
            );
            assert!(!failure.contains("sesame"), "{failure}");
        }
    }
}
