//! Rows that the service does not take: it refuses every call that carries one,
//! alone or in a record of many.

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use super::deaggregate;
use super::faults::{CallFault, Operation};
use crate::core::shard_map::HashRange;

/// The texts that rows must not hold.
#[derive(Debug, Default)]
pub struct Poison {
    texts: Mutex<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Put<'a> {
    #[serde(borrow)]
    records: Vec<Record<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Record<'a> {
    #[serde(borrow)]
    data: Cow<'a, str>,
}

impl Poison {
    /// Refuses calls with a row that holds a text.
    pub fn refuse(&self, text: &str) {
        self.texts().push(text.to_owned());
    }

    /// Takes everything again.
    pub fn heal(&self) {
        self.texts().clear();
    }

    /// How a call is refused, if it is.
    pub(super) fn refusal(&self, operation: Operation, body: &[u8]) -> Option<CallFault> {
        let texts = self.texts();
        if texts.is_empty() || operation != Operation::PutRecords {
            return None;
        }
        let put: Put<'_> = serde_json::from_slice(body).ok()?;
        let is_bad = |row: &[u8]| {
            let holds = |text: &String| row.windows(text.len()).any(|part| part == text.as_bytes());
            texts.iter().any(holds)
        };
        let has_bad = |record: &Record<'_>| {
            let data = STANDARD.decode(&*record.data).map(Bytes::from);
            let rows = data.map(|data| deaggregate::rows("", &data, HashRange::ALL));
            rows.is_ok_and(|rows| rows.iter().any(|(_, row)| is_bad(row)))
        };
        let refused = put.records.iter().any(has_bad);
        refused.then(|| CallFault::code("InvalidArgumentException"))
    }

    fn texts(&self) -> MutexGuard<'_, Vec<String>> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::aggregation::{Container, Packing, SubRecord, pack};
    use crate::core::compression::Compression;

    fn put(body: &str) -> Vec<u8> {
        let row = |key: &str, body: &str| SubRecord {
            key: key.into(),
            hash: key.len() as u128,
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        let packing = Packing {
            container: Container::Kpl,
            compression: Compression::None,
            max_bytes: 1_000,
        };
        let data = pack(packing, &[row("a", "good"), row("bb", body)]).data;
        let records = serde_json::json!([{ "Data": STANDARD.encode(data), "PartitionKey": "a" }]);
        serde_json::json!({ "Records": records })
            .to_string()
            .into_bytes()
    }

    #[test]
    fn a_row_inside_a_record_spoils_its_call() {
        let poison = Poison::default();
        let refusal = |body| poison.refusal(Operation::PutRecords, &put(body));
        assert_eq!(refusal("so bad"), None);
        poison.refuse("bad");
        assert!(refusal("so bad").is_some());
        assert_eq!(refusal("so good"), None);
        assert_eq!(poison.refusal(Operation::ListShards, &put("bad")), None);
        poison.heal();
        assert_eq!(refusal("so bad"), None);
    }
}
