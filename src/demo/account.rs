//! The account behind the emulator: which access keys it knows, who may call what
//! on which stream, and what its clock shows. What no emulator checks by itself.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aws_sdk_kinesis::primitives::{DateTime, DateTimeFormat};
use axum::http::{HeaderMap, HeaderValue, header};

use super::faults::{CallFault, Operation};

#[derive(Debug)]
struct Denial {
    stream: String,
    operation: Operation,
    fault: CallFault,
}

#[derive(Debug, Default)]
struct State {
    refused_keys: HashMap<String, String>,
    may_only_put: BTreeSet<String>,
    denials: Vec<Denial>,
    clock_offset: i64,
    signers: BTreeSet<(String, String)>,
}

/// The account.
#[derive(Debug, Default)]
pub struct Account {
    state: Mutex<State>,
}

impl Account {
    /// Refuses every call that is signed with an access key, with a code such as
    /// `ExpiredTokenException`.
    pub fn refuse_key(&self, access_key_id: &str, code: &str) {
        let mut state = self.state();
        state
            .refused_keys
            .insert(access_key_id.to_owned(), code.to_owned());
    }

    /// Lets whoever signs with this access key call `PutRecords` and nothing else.
    pub fn allow_only_puts(&self, access_key_id: &str) {
        self.state().may_only_put.insert(access_key_id.to_owned());
    }

    /// Allows every access key everything again.
    pub fn allow_all(&self) {
        self.state().may_only_put.clear();
    }

    /// Lets all calls of an operation on a stream end badly: in general with a code
    /// such as `AccessDeniedException`.
    pub fn deny(&self, stream: &str, operation: Operation, fault: CallFault) {
        self.state().denials.push(Denial {
            stream: stream.to_owned(),
            operation,
            fault,
        });
    }

    /// Sets the clock that the `Date` of every answer is read off, in seconds
    /// ahead of the machine's.
    pub fn set_clock(&self, seconds_ahead: i64) {
        self.state().clock_offset = seconds_ahead;
    }

    /// Knows all keys, allows everything and has the right time again.
    pub fn heal(&self) {
        let mut state = self.state();
        state.refused_keys.clear();
        state.may_only_put.clear();
        state.denials.clear();
        state.clock_offset = 0;
    }

    /// Access keys and regions that calls were signed with.
    #[must_use]
    pub fn signers(&self) -> BTreeSet<(String, String)> {
        self.state().signers.clone()
    }

    /// How a call is refused, if it is.
    pub(super) fn refusal(
        &self,
        operation: Operation,
        stream: Option<&str>,
        headers: &HeaderMap,
    ) -> Option<CallFault> {
        let signed = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (key, region) = signer(signed)?;
        let mut state = self.state();
        let is_known = |(known, at): &(String, String)| known == key && at == region;
        if !state.signers.iter().any(is_known) {
            state.signers.insert((key.to_owned(), region.to_owned()));
        }
        let of_key = state.refused_keys.get(key);
        let is_meant = |denial: &&Denial| {
            let operation_is = denial.operation == Operation::Any || denial.operation == operation;
            operation_is && stream == Some(denial.stream.as_str())
        };
        let denial = state.denials.iter().find(is_meant);
        let of_key = of_key.map(|code| CallFault::code(code)).or_else(|| {
            let is_denied = operation != Operation::PutRecords && state.may_only_put.contains(key);
            is_denied.then(|| CallFault::code("AccessDeniedException"))
        });
        of_key.or_else(|| denial.map(|denial| denial.fault.clone()))
    }

    /// Dates an answer by its clock, if that is not right.
    pub(super) fn date(&self, headers: &mut HeaderMap) {
        let offset = self.state().clock_offset;
        if offset == 0 {
            return;
        }
        let now = DateTime::from(SystemTime::now()).secs();
        let shown = DateTime::from_secs(now.saturating_add(offset));
        let date = shown.fmt(DateTimeFormat::HttpDate).ok();
        if let Some(date) = date.and_then(|date| HeaderValue::from_str(&date).ok()) {
            headers.insert(header::DATE, date);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Key and region of `AWS4-HMAC-SHA256 Credential=KEY/20260101/REGION/..., ...`.
fn signer(authorization: &str) -> Option<(&str, &str)> {
    let (_, credential) = authorization.split_once("Credential=")?;
    let mut parts = credential.split('/');
    let key = parts.next()?;
    Some((key, parts.nth(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_refused_by_key_stream_and_operation() {
        let account = Account::default();
        let signed = "AWS4-HMAC-SHA256 Credential=AKIA1/20260101/us-east-1/kinesis/aws4_request, x";
        let headers =
            HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(signed))]);
        let put = |stream| account.refusal(Operation::PutRecords, Some(stream), &headers);
        assert_eq!(put("s"), None);
        account.deny(
            "s",
            Operation::PutRecords,
            CallFault::code("AccessDeniedException"),
        );
        assert_eq!(put("s"), Some(CallFault::code("AccessDeniedException")));
        assert_eq!(put("t"), None);
        assert_eq!(
            account.refusal(Operation::ListShards, Some("s"), &headers),
            None
        );
        account.allow_only_puts("AKIA1");
        assert_eq!(put("t"), None);
        assert_eq!(
            account.refusal(Operation::ListShards, Some("t"), &headers),
            Some(CallFault::code("AccessDeniedException"))
        );
        account.refuse_key("AKIA1", "ExpiredTokenException");
        assert_eq!(put("t"), Some(CallFault::code("ExpiredTokenException")));
        account.heal();
        assert_eq!(put("s"), None);
    }
}
