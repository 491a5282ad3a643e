//! Calls and answers changed on their way to and from the emulator.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::core::render::MAX_KEY_CHARACTERS;
use crate::core::shard_map::hash_key;

/// The put without the records that are not to pass; `None` if it is not JSON.
pub(super) fn without_refused(body: &[u8], passes: impl Iterator<Item = bool>) -> Option<Bytes> {
    let mut fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(body).ok()?;
    let records: Vec<&RawValue> = serde_json::from_str(fields.remove("Records")?.get()).ok()?;
    let passing = records.iter().zip(passes).filter(|(_, passes)| *passes);
    let passing: Vec<&RawValue> = passing.map(|(raw, _)| *raw).collect();
    let passing = serde_json::value::to_raw_value(&passing).ok()?;
    fields.insert(Cow::Borrowed("Records"), &passing);
    serde_json::to_vec(&fields).ok().map(Bytes::from)
}

/// Partition keys that the service takes and the emulator does not, since it
/// counts bytes where the service counts characters. A short key stands in for
/// such a key inside the emulator, with the hash of the real one.
#[derive(Debug, Default)]
pub(super) struct LongKeys {
    by_stand_in: Mutex<HashMap<String, String>>,
}

impl LongKeys {
    /// Whether a key needs a stand-in.
    pub(super) fn is_one(key: &str) -> bool {
        key.len() > MAX_KEY_CHARACTERS && key.chars().count() <= MAX_KEY_CHARACTERS
    }

    /// The put with stand-ins; `None` if it is not JSON.
    pub(super) fn stand_in(&self, body: &[u8]) -> Option<Bytes> {
        let mut put: Value = serde_json::from_slice(body).ok()?;
        for record in put.get_mut("Records")?.as_array_mut()? {
            let Some(key) = record["PartitionKey"].as_str().map(str::to_owned) else {
                continue;
            };
            if !Self::is_one(&key) {
                continue;
            }
            let hash = hash_key(&key);
            let stand_in = format!("stands-in-for-{hash:032x}");
            record["PartitionKey"] = Value::from(stand_in.as_str());
            if record.get("ExplicitHashKey").is_none_or(Value::is_null) {
                record["ExplicitHashKey"] = Value::from(hash.to_string());
            }
            self.keys().insert(stand_in, key);
        }
        Some(Bytes::from(put.to_string()))
    }

    /// The records that were read, under their real keys; `None` if nothing
    /// changes.
    pub(super) fn put_back(&self, body: &[u8]) -> Option<Value> {
        let keys = self.keys();
        if keys.is_empty() {
            return None;
        }
        let mut answer: Value = serde_json::from_slice(body).ok()?;
        for record in answer.get_mut("Records")?.as_array_mut()? {
            let key = record["PartitionKey"]
                .as_str()
                .and_then(|key| keys.get(key));
            if let Some(key) = key {
                record["PartitionKey"] = Value::from(key.as_str());
            }
        }
        Some(answer)
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.by_stand_in
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn long_keys_go_in_and_come_out() {
        let long = "\u{e9}".repeat(256);
        let keys = LongKeys::default();
        let put = json!({"Records": [{"PartitionKey": long}, {"PartitionKey": "short"}]});
        let body = keys.stand_in(put.to_string().as_bytes()).expect("JSON");
        let inside: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(
            inside["Records"][0]["ExplicitHashKey"],
            hash_key(&long).to_string()
        );
        assert_eq!(inside["Records"][1], json!({"PartitionKey": "short"}));
        assert_eq!(
            keys.put_back(&body).expect("changed")["Records"][0]["PartitionKey"],
            long
        );
        assert!(!LongKeys::is_one(&"x".repeat(257)));
    }

    #[test]
    fn records_that_are_refused_are_left_out() {
        let put = json!({"StreamName": "s", "Records": [1, 2, 3]}).to_string();
        let body = without_refused(put.as_bytes(), [true, false, true].into_iter());
        let left: Value = serde_json::from_slice(&body.expect("JSON")).expect("JSON");
        assert_eq!(left, json!({"StreamName": "s", "Records": [1, 3]}));
    }
}
