//! The rows of shares on a real server: what `tide.relay_write_shares` grants is what
//! the model of the property tests and the simulation grants, and nodes that raise at
//! the same time never get more than there is.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use sqlx::PgPool;
use tidegate::core::nodes::{BeatRequest, NodeStore};
use tidegate::core::shard_map::ShardId;
use tidegate::core::shares::model::ShareTable;
use tidegate::core::shares::{Parts, ShardName, Share, ShareStore, ShareWrite, WHOLE};
use tidegate::postgres::PgOutboxStore;

use crate::database;

const NODES: usize = 5;

fn name(node: usize) -> Arc<str> {
    format!("n{node}").into()
}

fn shard(number: usize) -> ShardName {
    ShardName {
        stream: "arn:aws:kinesis:us-east-1:000000000000:stream/s of None".into(),
        shard: ShardId::from(&*format!("shardId-{number:012}")),
    }
}

async fn beat(store: &PgOutboxStore, node: &str) {
    let request = BeatRequest {
        node,
        lease: Duration::from_secs(3_600),
        draining: false,
        held: &[],
        asks: &[],
        demand: "{}",
        shares: "{}",
        known: "",
    };
    store.beat(request).await.expect("a beat");
}

async fn expire(pool: &PgPool, node: &str) {
    sqlx::query("UPDATE tide.relay_node SET expires_at = clock_timestamp() WHERE node = $1")
        .bind(node)
        .execute(pool)
        .await
        .expect("expired");
}

fn share(random: &mut Rng, most: Share) -> Share {
    Share {
        records: random.u32(0..=most.records),
        bytes: random.u32(0..=most.bytes),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_grants_what_the_model_grants() {
    grants_what_the_model_grants(fastrand::u64(..)).await;
}

/// A write that comes late clears away what is left of a node that is gone, which is
/// then heard of again.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_write_clears_away_what_the_model_clears_away() {
    grants_what_the_model_grants(5_338_720_887_482_112_413).await;
}

async fn grants_what_the_model_grants(seed: u64) {
    let pool = database::pool(&database::migrated_database().await);
    let store = PgOutboxStore::new(pool.clone());
    eprintln!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    let mut model = ShareTable::default();
    let mut lives = [false; NODES];
    let mut granted = [[Share::NOTHING; 3]; NODES];
    for number in 1..400 {
        let node = random.usize(0..NODES);
        match random.u8(0..10) {
            0 => {
                expire(&pool, &name(node)).await;
                lives[node] = false;
                // It goes by nothing, or by what it keeps: not of interest here.
                granted[node] = [Share::NOTHING; 3];
            }
            1 => {
                store.forget_shares(&[name(node)]).await.expect("forgotten");
                if !lives[node] {
                    model.forget(&name(node));
                }
            }
            2 | 3 => {
                beat(&store, &name(node)).await;
                lives[node] = true;
            }
            _ => {
                let writes = (0..3).filter(|_| random.bool()).collect::<Vec<usize>>();
                let writes: Vec<ShareWrite> = writes
                    .into_iter()
                    .map(|place| {
                        let uses = share(&mut random, granted[node][place]);
                        let wants = uses.max(share(&mut random, Share::ALL));
                        let keeps = if random.bool() {
                            Share::NOTHING
                        } else {
                            share(&mut random, wants)
                        };
                        ShareWrite {
                            shard: shard(place),
                            uses,
                            wants,
                            keeps,
                        }
                    })
                    .collect();
                // One in some comes late: it does nothing.
                let late = if random.u8(0..8) == 0 { 305 } else { 0 };
                let number = number * 10 - late;
                let expected = model.write(&name(node), number, &writes, |node| {
                    (0..NODES).any(|place| lives[place] && *name(place) == *node)
                });
                let written = store.write_shares(&name(node), number, &writes).await;
                let mut written = written.expect("written");
                // They come in any order.
                written.granted.sort_by(|a, b| a.shard.cmp(&b.shard));
                assert_eq!(written, expected, "write {number} of n{node}: {writes:?}");
                for one in &expected.granted {
                    let place = (0..3)
                        .find(|place| shard(*place) == one.shard)
                        .expect("one of them");
                    granted[node][place] = one.share;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_raise_at_once_get_no_more_than_there_is() {
    let pool = database::pool(&database::migrated_database().await);
    let store = Arc::new(PgOutboxStore::new(pool.clone()));
    for node in 0..NODES {
        beat(&store, &name(node)).await;
    }
    let tasks: Vec<_> = (0..NODES)
        .map(|node| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut uses = [Share::NOTHING; 2];
                for number in 1..60 {
                    // Both ways round: whoever locks in one order never waits in a ring.
                    let places = if number % 2 == 0 { [0, 1] } else { [1, 0] };
                    let writes = places.map(|place| ShareWrite {
                        shard: shard(place),
                        uses: uses[place],
                        wants: if number % 5 == 0 {
                            uses[place]
                        } else {
                            Share::ALL
                        },
                        keeps: Share::NOTHING,
                    });
                    let written = store.write_shares(&name(node), number, &writes).await;
                    for one in written.expect("written").granted {
                        let place = places.into_iter().find(|place| shard(*place) == one.shard);
                        let place = place.expect("one of them");
                        // Half of it is given up again.
                        uses[place] = Share {
                            records: one.share.records / 2,
                            bytes: one.share.bytes / 2,
                        };
                    }
                }
            })
        })
        .collect();
    let mut looks = 0;
    while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
        let sums: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT sum(records), sum(bytes) FROM tide.relay_share GROUP BY stream, shard",
        )
        .fetch_all(&pool)
        .await
        .expect("sums");
        for (records, bytes) in sums {
            assert!(
                records <= i64::from(WHOLE) && bytes <= i64::from(WHOLE),
                "{records}, {bytes}"
            );
        }
        looks += 1;
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    assert!(looks > 5, "it was looked at {looks} times");
}

/// Shares are parts of ten thousand in SQL too.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_row_has_expired_gets_nothing_and_keeps_what_it_said() {
    let pool = database::pool(&database::migrated_database().await);
    let store = PgOutboxStore::new(pool.clone());
    let write = |uses: Parts, wants: Parts, keeps: Parts| {
        let of = |parts| Share {
            records: parts,
            bytes: parts,
        };
        [ShareWrite {
            shard: shard(0),
            uses: of(uses),
            wants: of(wants),
            keeps: of(keeps),
        }]
    };
    for node in ["a", "b"] {
        beat(&store, node).await;
    }
    let all = store
        .write_shares("a", 1, &write(0, WHOLE, 3_000))
        .await
        .expect("written");
    assert_eq!(all.granted[0].share, Share::ALL);
    expire(&pool, "a").await;
    let nothing = store
        .write_shares("a", 2, &write(WHOLE, WHOLE, 0))
        .await
        .expect("written");
    assert!(nothing.granted.is_empty());
    let rest = store
        .write_shares("b", 1, &write(0, WHOLE, 0))
        .await
        .expect("written");
    assert_eq!(rest.granted[0].share.records, WHOLE - 3_000);
    assert_eq!(rest.keepers, [Arc::from("a")]);
    store.forget_shares(&["a".into()]).await.expect("forgotten");
    let rest = store
        .write_shares("b", 2, &write(7_000, WHOLE, 0))
        .await
        .expect("written");
    assert_eq!((rest.granted[0].share, rest.keepers.len()), (Share::ALL, 0));
}
