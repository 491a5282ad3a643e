//! The rows of shares, see [`crate::core::shares`]. The rules are in the functions of
//! `migrations/0015_shares.sql`.

use std::sync::Arc;

use super::store::PgOutboxStore;
use crate::core::ports::StoreError;
use crate::core::shares::{Granted, Parts, Share, ShareWrite, Written};

const WRITE: &str = "
SELECT s.place, s.records, s.bytes, s.keepers
FROM tide.relay_write_shares($1, $2, $3::text[], $4::text[], $5::int[], $6::int[], $7::int[],
    $8::int[], $9::int[], $10::int[]) AS s";

const FORGET: &str = "SELECT tide.relay_forget_shares($1::text[])";

type Answer = (i64, i32, i32, Vec<String>);

fn numbers(parts: impl Iterator<Item = Parts>) -> Vec<i32> {
    parts
        .map(|parts| i32::try_from(parts).unwrap_or(i32::MAX))
        .collect()
}

pub(super) async fn write(
    store: &PgOutboxStore,
    node: &str,
    number: i64,
    writes: &[ShareWrite],
) -> Result<Written, StoreError> {
    let streams: Vec<&str> = writes.iter().map(|one| &*one.shard.stream).collect();
    let shards: Vec<&str> = writes.iter().map(|one| &*one.shard.shard.0).collect();
    let of = |part: fn(&ShareWrite) -> Parts| numbers(writes.iter().map(part));
    let mut session = store.statement().await?;
    let answers: Vec<Answer> = sqlx::query_as(WRITE)
        .bind(node)
        .bind(number)
        .bind(streams)
        .bind(shards)
        .bind(of(|one| one.uses.records))
        .bind(of(|one| one.uses.bytes))
        .bind(of(|one| one.wants.records))
        .bind(of(|one| one.wants.bytes))
        .bind(of(|one| one.keeps.records))
        .bind(of(|one| one.keeps.bytes))
        .persistent(store.prepares())
        .fetch_all(session.connection())
        .await?;
    session.finish().await?;
    let mut written = Written::default();
    for (place, records, bytes, keepers) in answers {
        let place = usize::try_from(place)
            .ok()
            .and_then(|place| place.checked_sub(1));
        let Some(write) = place.and_then(|place| writes.get(place)) else {
            continue;
        };
        let parts = |number: i32| Parts::try_from(number).unwrap_or(0);
        written.granted.push(Granted {
            shard: write.shard.clone(),
            share: Share {
                records: parts(records),
                bytes: parts(bytes),
            },
        });
        written.keepers.extend(keepers.into_iter().map(Arc::from));
    }
    written.keepers.sort_unstable();
    written.keepers.dedup();
    Ok(written)
}

pub(super) async fn forget(store: &PgOutboxStore, nodes: &[Arc<str>]) -> Result<(), StoreError> {
    let nodes: Vec<&str> = nodes.iter().map(|node| &**node).collect();
    let mut session = store.statement().await?;
    sqlx::query(FORGET)
        .bind(nodes)
        .persistent(store.prepares())
        .execute(session.connection())
        .await?;
    session.finish().await
}
