//! The rows of nodes, see [`crate::core::nodes`].
//!
//! Rules:
//! - the database's clock decides who has expired, never a node's;
//! - a beat is one statement. It renews the node's row and its leases together, so
//!   that no lease outlives its owner's row; leases under the rules of `lease`;
//! - it waits for no lease: a row that somebody has locked (an operator's open
//!   transaction) is left out, or one pipeline would stop the whole node;
//! - what it costs rises with the leases, not with their square: nothing in it joins two
//!   lists that are in no table. The planner takes such a list for a few rows and runs
//!   through the whole of one for each row of the other;
//! - leases are found by reading their table once, and then by their places in it: while
//!   a transaction stays open each beat leaves a version of each behind, and every search
//!   by key walks over all of that key's (decision 27). A row that somebody changes
//!   between two looks of the statement may count as locked then, until the next beat;
//! - the list of leases is sent only when it has changed. Epochs never fall, so their
//!   sum and the number of those that run tell two states apart, but for leases that
//!   ran out and were renewed late: hence the hashes of those that run;
//! - what a node says is sent only to who has not seen it (`node_notes`).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::lease::microseconds;
use super::node_notes::{KnownNotes, Notes};
use super::store::PgOutboxStore;
use crate::core::nodes::{
    BeatDone, BeatRequest, LeaseSeen, MOST_NOTE_BYTES, NodeSeen, Renewal, TOLD_OF_FOR,
};
use crate::core::ports::StoreError;

/// Rows of nodes that are gone are kept for people for an hour; few are deleted at a
/// time, and none that another node is about to delete.
macro_rules! beat {
    ($renewed:literal) => {
        concat!(
            "WITH ",
            $renewed,
            ", me AS (
    INSERT INTO tide.relay_node AS n (node, expires_at, draining, asks, demand, shares)
    VALUES ($1, clock_timestamp() + $2::bigint * interval '1 microsecond', $5, $6::text[],
        $7::text::jsonb, $8::text::jsonb)
    ON CONFLICT (node) DO UPDATE
    SET beat = n.beat + 1, beat_at = clock_timestamp(), expires_at = excluded.expires_at,
        draining = excluded.draining, asks = excluded.asks, demand = excluded.demand, shares = excluded.shares,
        noted = CASE WHEN n.demand = excluded.demand AND n.shares = excluded.shares
                AND n.expires_at > clock_timestamp()
            THEN n.noted ELSE pg_current_xact_id() END,
        runs_since = CASE WHEN n.expires_at > clock_timestamp() THEN n.runs_since ELSE clock_timestamp() END
    RETURNING n.beat, (extract(epoch FROM n.runs_since) * 1000000)::bigint AS runs_since
), forgotten AS (
    DELETE FROM tide.relay_node AS n WHERE n.node = ANY (ARRAY(
        SELECT old.node FROM tide.relay_node AS old
        WHERE old.expires_at < clock_timestamp() - interval '1 hour' AND old.node <> $1
        ORDER BY old.node LIMIT 100 FOR UPDATE SKIP LOCKED))
), leases AS MATERIALIZED (
    SELECT l.pipeline, l.owner, l.epoch, l.expires_at > clock_timestamp() AS runs,
        coalesce((extract(epoch FROM l.taken_at) * 1000000)::bigint, 0) AS taken_at
    FROM tide.relay_lease AS l
), state AS (
    SELECT concat_ws(':', coalesce(sum(l.epoch), 0), count(*) FILTER (WHERE l.runs),
        coalesce(sum(hashtext(l.pipeline)::bigint) FILTER (WHERE l.runs), 0)) AS digest FROM leases AS l
)
SELECT (SELECT me.beat FROM me), (SELECT me.runs_since FROM me), state.digest,
    ARRAY(SELECT r.pipeline FROM renewed AS r ORDER BY r.pipeline, r.epoch),
    ARRAY(SELECT r.epoch FROM renewed AS r ORDER BY r.pipeline, r.epoch),
    ARRAY(SELECT l.pipeline FROM locked AS l),
    (SELECT coalesce(jsonb_agg(jsonb_build_object(
        'node', n.node, 'beat', n.beat, 'since', (extract(epoch FROM n.runs_since) * 1000000)::bigint, 'draining', n.draining, 'asks', n.asks,
        'silent', greatest(0, extract(epoch FROM clock_timestamp() - n.beat_at) * 1000000)::bigint,
        'expires', (extract(epoch FROM n.expires_at - clock_timestamp()) * 1000000)::bigint,
        'notes', CASE WHEN NOT pg_visible_in_snapshot(n.noted, $11::text::pg_snapshot)
            THEN jsonb_build_array(n.demand, n.shares) END) ORDER BY n.node), '[]')::text
        FROM tide.relay_node AS n
        WHERE n.node <> $1 AND n.expires_at > clock_timestamp() - $9::bigint * interval '1 microsecond'),
    CASE WHEN state.digest <> $10 THEN (
        SELECT coalesce(jsonb_agg(jsonb_build_array(l.pipeline, l.owner, l.taken_at) ORDER BY l.pipeline), '[]')::text
        FROM leases AS l WHERE l.runs) END,
    pg_current_snapshot()::text
FROM state"
        )
    };
}

pub(super) const BEAT: &str = beat!(
    "own AS MATERIALIZED (
    SELECT l.pipeline, l.epoch, l.ctid AS place
    FROM tide.relay_lease AS l
    WHERE l.owner = $1
        AND ((SELECT jsonb_object($3::text[], $4::bigint[]::text[])) ->> l.pipeline)::bigint = l.epoch
), free AS MATERIALIZED (
    SELECT l.pipeline, l.epoch, own.place
    FROM own JOIN tide.relay_lease AS l
        ON l.ctid = own.place AND l.pipeline = own.pipeline AND l.epoch = own.epoch
    WHERE l.owner = $1
    FOR NO KEY UPDATE OF l SKIP LOCKED
), locked AS (
    SELECT own.pipeline FROM own WHERE own.pipeline NOT IN (SELECT free.pipeline FROM free)
), renewed AS (
    UPDATE tide.relay_lease AS l
    SET expires_at = clock_timestamp() + $2::bigint * interval '1 microsecond'
    FROM free
    JOIN tide.relay_position AS p ON p.pipeline = free.pipeline
    WHERE l.ctid = free.place AND l.pipeline = free.pipeline AND l.epoch = free.epoch AND l.owner = $1
        AND p.server_started = pg_postmaster_start_time()
        AND p.server_life = (SELECT s.life FROM tide.relay_server_life AS s)
    RETURNING l.pipeline, l.epoch
)"
);

/// Without leases to renew: it only reads their table, and waits for nobody there.
const BEAT_OF_NOTHING: &str = beat!(
    "renewed AS (
    SELECT held.pipeline, held.epoch FROM unnest($3::text[], $4::bigint[]) AS held (pipeline, epoch)
), locked AS (SELECT r.pipeline FROM renewed AS r)"
);

const LEAVE: &str = "DELETE FROM tide.relay_node AS n WHERE n.node = $1";

/// A node as the statement gives it.
#[derive(Deserialize)]
struct NodeRecord {
    node: String,
    beat: u64,
    since: i64,
    draining: bool,
    asks: Vec<String>,
    silent: u64,
    expires: i64,
    /// Demand and shares, when they have changed.
    notes: Option<(serde_json::Value, serde_json::Value)>,
}

type Answer = (
    i64,
    i64,
    String,
    Vec<String>,
    Vec<i64>,
    Vec<String>,
    String,
    Option<String>,
    String,
);

fn unreadable(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Refused(format!("what a beat answers cannot be read: {error}"))
}

/// A note, unless it is too long.
fn bounded<'a>(note: &'a str, what: &str) -> &'a str {
    if note.len() <= MOST_NOTE_BYTES {
        return note;
    }
    tracing::error!(
        what,
        bytes = note.len(),
        "a node's note is too long; it is not sent"
    );
    "{}"
}

pub(super) async fn beat(
    store: &PgOutboxStore,
    request: BeatRequest<'_>,
) -> Result<BeatDone, StoreError> {
    let done = ask(store, request).await;
    if done.is_err() {
        store.node_notes().forget();
    }
    done
}

async fn ask(store: &PgOutboxStore, request: BeatRequest<'_>) -> Result<BeatDone, StoreError> {
    let known = store.node_notes().known(request.node);
    let pipelines: Vec<&str> = request.held.iter().map(|(name, _)| &**name).collect();
    let epochs: Vec<i64> = request.held.iter().map(|(_, epoch)| epoch.0).collect();
    let asks: Vec<&str> = request.asks.iter().map(|name| &**name).collect();
    let statement = if request.held.is_empty() {
        BEAT_OF_NOTHING
    } else {
        BEAT
    };
    let mut session = store.statement().await?;
    let answer: Answer = sqlx::query_as(statement)
        .bind(request.node)
        .bind(microseconds(request.lease))
        .bind(pipelines)
        .bind(epochs)
        .bind(request.draining)
        .bind(asks)
        .bind(bounded(request.demand, "demand"))
        .bind(bounded(request.shares, "shares"))
        .bind(microseconds(TOLD_OF_FOR))
        .bind(request.known)
        .bind(known.snapshot())
        .persistent(store.prepares())
        .fetch_one(session.connection())
        .await?;
    session.finish().await?;
    let (beat, runs_since, digest, renewed, their_epochs, locked, nodes, leases, snapshot) = answer;
    let nodes = read_nodes(&nodes, &known)?;
    let notes = nodes
        .iter()
        .map(|(seen, notes)| (Arc::clone(&seen.node), Arc::clone(notes)));
    let notes = notes.collect();
    store.node_notes().learn(request.node, snapshot, notes);
    let renewed = renewed.iter().map(String::as_str);
    let renewed: HashSet<(&str, i64)> = renewed.zip(their_epochs).collect();
    let locked: HashSet<&str> = locked.iter().map(String::as_str).collect();
    let held = request.held.iter();
    let held = held.map(|(name, epoch)| {
        if renewed.contains(&(&**name, epoch.0)) {
            Renewal::Renewed
        } else if locked.contains(&**name) {
            Renewal::Locked
        } else {
            Renewal::Lost
        }
    });
    Ok(BeatDone {
        beat: u64::try_from(beat).map_err(|error| unreadable(&error))?,
        runs_since,
        held: held.collect(),
        nodes: nodes.into_iter().map(|(seen, _)| seen).collect(),
        digest,
        leases: leases.as_deref().map(read_leases).transpose()?,
    })
}

fn read_nodes(text: &str, known: &KnownNotes) -> Result<Vec<(NodeSeen, Notes)>, StoreError> {
    let records: Vec<NodeRecord> =
        serde_json::from_str(text).map_err(|error| unreadable(&error))?;
    let seen = records.into_iter().map(|record| {
        let notes = match (record.notes, known.of(&record.node)) {
            (Some((demand, shares)), _) => Arc::new((demand.to_string(), shares.to_string())),
            (None, Some(notes)) => Arc::clone(notes),
            (None, None) => {
                let node = &record.node;
                return Err(unreadable(&format!("what node {node:?} said is not known")));
            }
        };
        let microseconds = Duration::from_micros(record.expires.unsigned_abs());
        let (expires_in, expired_for) = if record.expires > 0 {
            (microseconds, Duration::ZERO)
        } else {
            (Duration::ZERO, microseconds)
        };
        let seen = NodeSeen {
            node: record.node.into(),
            beat: record.beat,
            runs_since: record.since,
            silent_for: Duration::from_micros(record.silent),
            expires_in,
            expired_for,
            draining: record.draining,
            asks: record.asks.into_iter().map(Into::into).collect(),
            demand: notes.0.clone(),
            shares: notes.1.clone(),
        };
        Ok((seen, notes))
    });
    seen.collect()
}

fn read_leases(text: &str) -> Result<Vec<LeaseSeen>, StoreError> {
    let records: Vec<(String, String, i64)> =
        serde_json::from_str(text).map_err(|error| unreadable(&error))?;
    let seen = records
        .into_iter()
        .map(|(pipeline, owner, taken_at)| LeaseSeen {
            pipeline: pipeline.into(),
            owner: owner.into(),
            taken_at,
        });
    Ok(seen.collect())
}

pub(super) async fn leave(store: &PgOutboxStore, node: &str) -> Result<(), StoreError> {
    let mut session = store.statement().await?;
    sqlx::query(LEAVE)
        .bind(node)
        .persistent(store.prepares())
        .execute(session.connection())
        .await?;
    session.finish().await
}
