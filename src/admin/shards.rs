//! `/api/shards`: the shards of each stream, and their hottest keys for who asks.
//!
//! Partition keys may be secrets of the application (an e-mail address, an account), so
//! they are no part of any other answer.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::status::{ShardStatus, Status, StreamStatus};

/// The most keys of a shard that can be asked for.
const MOST_KEYS: usize = 20;

/// How many keys of each shard a query asks for.
///
/// # Errors
/// What is wrong with the query, and what is expected.
pub(super) fn most_keys(asked: &BTreeMap<String, String>) -> Result<usize, String> {
    let expected = || format!("expected keys=N, N from 0 to {MOST_KEYS}");
    if let Some(other) = asked.keys().find(|name| *name != "keys") {
        return Err(format!("unknown parameter {other:?}; {}", expected()));
    }
    let Some(keys) = asked.get("keys") else {
        return Ok(0);
    };
    let number = keys.parse().ok().filter(|number| *number <= MOST_KEYS);
    number.ok_or_else(|| format!("keys is {keys:?}; {}", expected()))
}

/// The streams of a board, with so many keys of each shard.
pub(super) fn shown(status: &Status, keys: usize) -> Value {
    let stream = |stream: &StreamStatus| {
        let shards = stream.shards.iter().map(|shard| shard_json(shard, keys));
        json!({
            "name": stream.name,
            "key": stream.key,
            "status": stream.status,
            "problem": stream.problem,
            "shards": shards.collect::<Vec<Value>>(),
        })
    };
    json!({
        "version": status.version,
        "node": status.node,
        "streams": status.streams.iter().map(stream).collect::<Vec<Value>>(),
    })
}

fn shard_json(shard: &ShardStatus, keys: usize) -> Value {
    let mut value = json!(shard);
    if keys > 0 {
        let hottest = shard.hot_keys.iter().take(keys);
        let hottest = hottest.map(|hot| {
            json!({
                "key": hot.key,
                "share": hot.share,
                "share_at_least": hot.share_at_least,
            })
        });
        value["hot_keys"] = Value::Array(hottest.collect());
    }
    value
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::status::StatusBoard;
    use super::*;
    use crate::core::hot_keys::HotKey;
    use crate::core::shard_map::HashRange;

    fn asks(text: &str) -> Result<usize, String> {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        most_keys(&pairs.collect())
    }

    #[test]
    fn a_query_is_understood_or_refused() {
        assert_eq!(asks(""), Ok(0));
        assert_eq!(asks("keys=20"), Ok(20));
        for wrong in ["keys=21", "keys=x", "keys=-1", "kyes=1"] {
            let reason = asks(wrong).expect_err(wrong);
            assert!(
                reason.contains("expected keys=N, N from 0 to 20"),
                "{reason}"
            );
        }
    }

    #[test]
    fn keys_are_shown_to_who_asks_for_them_alone() {
        let board = StatusBoard::new("n".into());
        let shard = ShardStatus {
            id: "shardId-0".into(),
            hash_range: Some(HashRange::ALL.into()),
            hot_keys: vec![HotKey {
                key: "secret-key".into(),
                share: 0.5,
                share_at_least: 0.4,
            }],
            ..ShardStatus::default()
        };
        let key: Arc<str> = "s".into();
        board.update_stream(&key, |stream| stream.shards = vec![shard]);
        let status = board.status();
        let everything = serde_json::to_string(&status).expect("JSON");
        assert!(!everything.contains("secret-key"), "{everything}");
        let without = shown(&status, 0);
        assert!(!without.to_string().contains("secret-key"), "{without}");
        let shard = &without["streams"][0]["shards"][0];
        assert_eq!(shard["hash_range"]["part"], 1.0);
        assert_eq!(shard["hash_range"]["last"], u128::MAX.to_string());
        let with = shown(&status, 1);
        let hot = &with["streams"][0]["shards"][0]["hot_keys"][0];
        assert_eq!(hot["key"], "secret-key");
        assert_eq!(hot["share_at_least"], 0.4);
    }
}
