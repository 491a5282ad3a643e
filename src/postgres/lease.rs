//! Who owns a pipeline: a row with an owner, an epoch and an end.
//!
//! Rules:
//! - the database's clock decides what has expired, never a relay's;
//! - batches of retention are held off while a position is taken (see
//!   `removed`), by the outbox's row, which is locked before the lease's;
//! - a lease is not renewed over a crash of the server (see `position`);
//! - none is given for an outbox or a position that was copied from another
//!   database: its transaction ids mean nothing here (see `rebase`);
//! - none is given to a node that goes by other pauses than there are: what its last
//!   owner gave back because it is paused must not be taken up by one that does not
//!   know that yet;
//! - whoever takes the row raises its epoch and sets the position's epoch to it,
//!   in one transaction: from then on writes under older epochs do nothing;
//! - that transaction is flushed before it is answered even where the database
//!   does not do so by default: an epoch that a crash takes back would be handed
//!   out twice.

use std::time::Duration;

use sqlx::PgConnection;

use super::position::{self, StoredPosition};
use super::removed;
use super::store::PgOutboxStore;
use crate::core::pause::PausesVersion;
use crate::core::ports::{Claim, ClaimRequest, Epoch, Outbox, OutboxId, StoreError};
use crate::core::position::RowId;

const FIND_OUTBOX: &str = "
SELECT o.outbox_id, o.uuid::text, tide.relay_is_here(o.place),
    set_config('synchronous_commit', CASE current_setting('synchronous_commit')
        WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true)
FROM tide.outbox AS o WHERE o.name = $1";

const TAKE_LEASE: &str = "
INSERT INTO tide.relay_lease AS l (pipeline, owner, epoch, expires_at, taken_at)
VALUES ($1, $2, 1, clock_timestamp() + $3::bigint * interval '1 microsecond', clock_timestamp())
ON CONFLICT (pipeline) DO UPDATE
SET owner = excluded.owner, epoch = l.epoch + 1, expires_at = excluded.expires_at,
    taken_at = CASE WHEN l.owner = excluded.owner THEN l.taken_at ELSE excluded.taken_at END
WHERE l.owner = excluded.owner OR l.expires_at <= clock_timestamp()
RETURNING l.epoch";

const LOOK_AT_LEASE: &str = "
SELECT l.owner, CASE WHEN isfinite(l.expires_at)
    THEN greatest(0, extract(epoch FROM l.expires_at - clock_timestamp()) * 1000000)::bigint ELSE 0 END
FROM tide.relay_lease AS l WHERE l.pipeline = $1";

/// Whoever stands by asks again and again, and must leave no trace in the
/// database: no row lock, no transaction id, no flush.
const LEASE_RUNS: &str = "
SELECT EXISTS (SELECT 1 FROM tide.relay_lease AS l
        WHERE l.pipeline = $1 AND l.owner <> $2 AND l.expires_at > clock_timestamp()),
    (SELECT count(*) FROM tide.relay_pause AS p),
    (SELECT coalesce(sum(p.version), 0)::text FROM tide.relay_pause AS p)";

const IS_DEFINED: &str = "
SELECT EXISTS (SELECT 1 FROM tide.relay_pipeline AS r
    WHERE r.name = $1 AND r.enabled AND r.version = $2)";

/// Asked after the position was read: a statement's snapshot is older than what
/// it waited for. The second column is a message whose transaction id is not
/// handed out yet: none of this database has one.
const PRESENT: &str = "
SELECT pg_snapshot_xmax(pg_current_snapshot())::text, (
    SELECT m.id FROM tide.outbox_message AS m
    WHERE m.outbox_id = $1 AND m.xact >= (SELECT pg_snapshot_xmax(pg_current_snapshot()))
    ORDER BY m.xact, m.id LIMIT 1)";

const RELEASE: &str = "
UPDATE tide.relay_lease AS l SET owner = '', expires_at = '-infinity'
WHERE l.pipeline = $1 AND l.owner = $2 AND l.epoch = $3";

pub(super) fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

pub(super) async fn claim(
    store: &PgOutboxStore,
    request: ClaimRequest<'_>,
) -> Result<Claim, StoreError> {
    let ClaimRequest {
        pipeline,
        version,
        outbox,
        node,
        lease,
    } = request;
    // As the node went by them when it asked: what it learns meanwhile may be that
    // this pipeline is paused.
    let known_pauses = store.known_pauses();
    let mut session = store.transaction().await?;
    let connection = session.connection();
    let outbox = find_outbox(store, connection, outbox).await?;
    if let Some(version) = version {
        check_definition(store, connection, pipeline, version).await?;
    }
    let (is_held, count, sum): (bool, i64, String) = sqlx::query_as(LEASE_RUNS)
        .bind(pipeline)
        .bind(node)
        .persistent(store.prepares())
        .fetch_one(&mut *connection)
        .await?;
    if !is_held && known_pauses != (PausesVersion { count, sum }) {
        return Ok(Claim::PausesChanged);
    }
    let mut record = None;
    let taken: Option<(i64,)> = if is_held {
        None
    } else {
        record = Some(removed::hold_off(store, connection, outbox.id).await?);
        sqlx::query_as(TAKE_LEASE)
            .bind(pipeline)
            .bind(node)
            .bind(microseconds(lease))
            .persistent(store.prepares())
            .fetch_optional(&mut *connection)
            .await?
    };
    let (Some((epoch,)), Some(record)) = (taken, record) else {
        let held = look_at_lease(store, connection, pipeline).await?;
        session.finish().await?;
        return Ok(held);
    };
    let rows = record.removed.rows;
    let stored = position::take(store, connection, pipeline, outbox.id, Epoch(epoch), rows).await?;
    let (next_xid, future_row): (String, Option<RowId>) = sqlx::query_as(PRESENT)
        .bind(outbox.id.0)
        .persistent(store.prepares())
        .fetch_one(&mut *connection)
        .await?;
    check_position(pipeline, &outbox, &stored, &next_xid, future_row)?;
    if !record.removed.spares(&stored.position, stored.began_after) {
        return Err(removed::refusal(pipeline, &outbox.name, &record));
    }
    session.finish().await?;
    store.reads_for(pipeline, outbox.id);
    if rows > 0 && stored.position.has_not_begun() {
        tracing::info!(
            pipeline, outbox = %outbox.name, removed = rows,
            "the pipeline begins at the oldest message kept: retention has removed earlier ones"
        );
    }
    Ok(Claim::Granted {
        epoch: Epoch(epoch),
        position: stored.position,
        outbox,
    })
}

async fn find_outbox(
    store: &PgOutboxStore,
    connection: &mut PgConnection,
    name: &str,
) -> Result<Outbox, StoreError> {
    let found: Option<(i32, String, bool, String)> = sqlx::query_as(FIND_OUTBOX)
        .bind(name)
        .persistent(store.prepares())
        .fetch_optional(connection)
        .await?;
    let Some((id, uuid, is_here, _synchronous_commit)) = found else {
        return Err(StoreError::Refused(format!(
            "outbox {name:?} does not exist: SELECT tide.outbox_create('{name}') creates it"
        )));
    };
    if !is_here {
        return Err(rebuilt(
            name,
            &format!("outbox {name:?} comes from another database"),
        ));
    }
    let unreadable =
        |_| StoreError::Refused(format!("outbox {name:?} has an unreadable uuid {uuid:?}"));
    Ok(Outbox {
        id: OutboxId(id),
        name: name.into(),
        uuid: uuid.parse().map_err(unreadable)?,
    })
}

/// A relay may still have a definition that was changed or deleted a moment ago:
/// under that it must not begin anew, nor bind the position to the old outbox.
async fn check_definition(
    store: &PgOutboxStore,
    connection: &mut PgConnection,
    pipeline: &str,
    version: i64,
) -> Result<(), StoreError> {
    let is_defined: bool = sqlx::query_scalar(IS_DEFINED)
        .bind(pipeline)
        .bind(version)
        .persistent(store.prepares())
        .fetch_one(connection)
        .await?;
    if is_defined {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "the definition of pipeline {pipeline:?} was changed, disabled or deleted a moment ago"
    )))
}

async fn look_at_lease(
    store: &PgOutboxStore,
    connection: &mut PgConnection,
    pipeline: &str,
) -> Result<Claim, StoreError> {
    let (owner, expires_in): (String, i64) = sqlx::query_as(LOOK_AT_LEASE)
        .bind(pipeline)
        .persistent(store.prepares())
        .fetch_one(connection)
        .await?;
    Ok(Claim::Held {
        owner,
        expires_in: Duration::from_micros(u64::try_from(expires_in).unwrap_or(0)),
    })
}

/// Why a pipeline of a copied database does not run, and what to do.
fn rebuilt(outbox: &str, what: &str) -> StoreError {
    StoreError::Refused(format!(
        "{what}: this database was restored from a dump or moved by logical replication, its transaction ids have \
         started over, and reading on would skip messages; run `tidegate rebase --outbox {outbox}` (with --dry-run \
         first), which loses nothing"
    ))
}

/// A position must be of this outbox, and of this database's past.
fn check_position(
    pipeline: &str,
    outbox: &Outbox,
    stored: &StoredPosition,
    next_xid: &str,
    future_row: Option<RowId>,
) -> Result<(), StoreError> {
    let Outbox { id, name, .. } = outbox;
    if stored.outbox != *id {
        return Err(StoreError::Refused(format!(
            "pipeline {pipeline:?} has a position in the outbox with id {}, but outbox {name:?} has id {}: \
             give the pipeline of this outbox another name, or delete the pipeline and define it again to \
             deliver from the oldest message kept",
            stored.outbox.0, id.0
        )));
    }
    if !stored.is_here {
        let what = format!("the position of pipeline {pipeline:?} comes from another database");
        return Err(rebuilt(name, &what));
    }
    let head = stored.position.head().xmax();
    let unreadable = |_| StoreError::Refused(format!("unreadable transaction id {next_xid:?}"));
    if head > next_xid.parse().map_err(unreadable)? {
        let what = format!(
            "the position of pipeline {pipeline:?} lies in the database's future (transaction {head}, the next one \
             is {next_xid})"
        );
        return Err(rebuilt(name, &what));
    }
    if let Some(row) = future_row {
        let what = format!(
            "message {row} of outbox {name:?} lies in the database's future (the next transaction is {next_xid})"
        );
        return Err(rebuilt(name, &what));
    }
    Ok(())
}

pub(super) async fn release(
    store: &PgOutboxStore,
    pipeline: &str,
    node: &str,
    epoch: Epoch,
) -> Result<(), StoreError> {
    let mut session = store.statement().await?;
    sqlx::query(RELEASE)
        .bind(pipeline)
        .bind(node)
        .bind(epoch.0)
        .persistent(store.prepares())
        .execute(session.connection())
        .await?;
    session.finish().await
}
