//! Changing the shards of [`STREAM`] while it is written to.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::{ScalingType, ShardFilter, ShardFilterType};
use tidegate::core::shard_map::{HashRange, Shard, ShardId};

use crate::scenario::PATIENCE;
use crate::world::{STREAM, World};

/// The stream's shards, and how to change them.
pub(crate) struct Shards {
    client: Client,
}

impl Shards {
    pub(crate) async fn of(world: &World) -> Self {
        let client = world.emulator.client().await.expect("a client");
        Self { client }
    }

    /// The open shards, by rising hash range.
    pub(crate) async fn open(&self) -> Vec<Shard> {
        let filter = ShardFilter::builder()
            .r#type(ShardFilterType::AtLatest)
            .build()
            .expect("a filter");
        let request = self.client.list_shards().stream_name(STREAM);
        let answer = request.shard_filter(filter).send().await.expect("shards");
        let mut open = Vec::new();
        for shard in answer.shards() {
            let sequences = shard.sequence_number_range.as_ref().expect("a range");
            if sequences.ending_sequence_number.is_some() {
                continue;
            }
            let range = shard.hash_key_range.as_ref().expect("a range");
            open.push(Shard {
                id: ShardId::from(shard.shard_id.as_str()),
                range: HashRange {
                    first: range.starting_hash_key.parse().expect("a number"),
                    last: range.ending_hash_key.parse().expect("a number"),
                },
                parents: Vec::new(),
            });
        }
        open.sort_by_key(|shard| shard.range);
        open
    }

    /// The ids of the open shards.
    pub(crate) async fn ids(&self) -> Vec<String> {
        let open = self.open().await;
        open.iter().map(|shard| shard.id.to_string()).collect()
    }

    /// Splits the open shard at a place in half.
    pub(crate) async fn split(&self, place: usize) {
        let shard = self.open().await[place].clone();
        self.split_this(&shard).await;
    }

    /// Splits a shard in half; lists none.
    pub(crate) async fn split_this(&self, shard: &Shard) {
        let middle = shard.range.first + (shard.range.last - shard.range.first) / 2 + 1;
        self.client
            .split_shard()
            .stream_name(STREAM)
            .shard_to_split(&*shard.id.0)
            .new_starting_hash_key(middle.to_string())
            .send()
            .await
            .expect("split");
        self.until_active().await;
    }

    /// Merges the open shard at a place with the next one.
    pub(crate) async fn merge(&self, place: usize) {
        let open = self.open().await;
        self.client
            .merge_shards()
            .stream_name(STREAM)
            .shard_to_merge(&*open[place].id.0)
            .adjacent_shard_to_merge(&*open[place + 1].id.0)
            .send()
            .await
            .expect("merged");
        self.until_active().await;
    }

    /// `UpdateShardCount`.
    pub(crate) async fn set_count(&self, count: i32) {
        self.client
            .update_shard_count()
            .stream_name(STREAM)
            .target_shard_count(count)
            .scaling_type(ScalingType::UniformScaling)
            .send()
            .await
            .expect("another count");
        self.until_active().await;
        assert_eq!(
            self.open().await.len(),
            usize::try_from(count).expect("few")
        );
    }

    async fn until_active(&self) {
        let waiting = async {
            loop {
                let request = self.client.describe_stream_summary().stream_name(STREAM);
                let answer = request.send().await.expect("a description");
                let summary = answer.stream_description_summary.expect("a summary");
                if summary.stream_status.as_str() == "ACTIVE" {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .expect("ACTIVE");
    }
}
