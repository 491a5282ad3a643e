//! Runs one planned transaction up to its end on a connection.
//!
//! The order of a key's events is made under the lock of its row in
//! `demo.entity`: whoever holds the lock takes the next places of that key, in
//! the transaction that publishes. So places are handed out again after a
//! roll-back, and never twice among committed rows.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};
use sqlx::{Executor, PgConnection};

use super::ledger::PublishedRow;
use super::plan::{Event, Plan, Step, key_name};
use super::{KeyOrder, OutboxLoad};

/// The load's own tables. Keys of an outbox get their rows when it starts.
pub(super) const PREPARE: &str = "
    CREATE SCHEMA IF NOT EXISTS demo;
    CREATE TABLE IF NOT EXISTS demo.entity (
        outbox text NOT NULL,
        key text NOT NULL,
        serial bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (outbox, key)
    ) WITH (fillfactor = 50);
    CREATE TABLE IF NOT EXISTS demo.publisher (
        name text PRIMARY KEY,
        transactions bigint NOT NULL DEFAULT 0
    ) WITH (fillfactor = 50);";

pub(super) const ADD_ENTITIES: &str = "
    INSERT INTO demo.entity (outbox, key) SELECT $1, k FROM unnest($2::text[]) AS k
    ON CONFLICT DO NOTHING";

pub(super) const ADD_PUBLISHER: &str =
    "INSERT INTO demo.publisher (name) VALUES ($1) ON CONFLICT DO NOTHING";

const WRITE_FIRST: &str =
    "UPDATE demo.publisher SET transactions = transactions + 1 WHERE name = $1";

/// Locks come in the order of the keys, so two of these never wait for each other.
const LOCK: &str = "
    SELECT key, serial FROM demo.entity WHERE outbox = $1 AND key = ANY ($2::text[])
    ORDER BY key FOR UPDATE";

const TAKE_PLACES: &str = "
    UPDATE demo.entity SET serial = serial + $3 WHERE outbox = $1 AND key = ANY ($2::text[])";

const PUBLISH: &str = "SELECT tide.outbox_publish($1, $2::text::jsonb, $3::text::jsonb, $4)";

const PUBLISH_MANY: &str =
    "SELECT tide.outbox_publish_many($1, $2::text[]::jsonb[], $3::text[]::jsonb[], $4::text[])";

const SAVEPOINT: &str = "SAVEPOINT event";

/// A planned transaction on its way.
pub(super) struct Transaction<'a> {
    pub(super) load: &'a OutboxLoad,
    pub(super) publisher: &'a str,
    pub(super) token: &'a str,
    pub(super) filler: &'a str,
}

/// What it has published, and what it undid on the way.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) rows: Vec<PublishedRow>,
    pub(super) undone: u64,
    at_savepoint: usize,
}

/// A key and the place its next event takes.
struct Entity {
    key: Arc<str>,
    next_place: Option<u64>,
}

/// An event as it is published.
struct Message {
    payload: String,
    headers: String,
    key: Option<Arc<str>>,
    order: Option<u64>,
}

// === impl Transaction ===

impl Transaction<'_> {
    /// Begins it and does what is planned; COMMIT or ROLLBACK is left to the
    /// caller.
    pub(super) async fn run(
        &self,
        connection: &mut PgConnection,
        plan: &Plan,
    ) -> Result<Published, sqlx::Error> {
        connection.execute("BEGIN").await?;
        if plan.writes_first {
            let query = sqlx::query(WRITE_FIRST).bind(self.publisher);
            query.execute(&mut *connection).await?;
        }
        if !plan.pause_before_locks.is_zero() {
            tokio::time::sleep(plan.pause_before_locks).await;
        }
        let mut entities = self.entities(connection, plan).await?;
        let mut published = Published::default();
        for step in &plan.steps {
            self.step(connection, step, &mut entities, &mut published)
                .await?;
        }
        Ok(published)
    }

    async fn step(
        &self,
        connection: &mut PgConnection,
        step: &Step,
        entities: &mut [Entity],
        published: &mut Published,
    ) -> Result<(), sqlx::Error> {
        match step {
            Step::Pause(pause) if pause.is_zero() => {}
            Step::Pause(pause) => tokio::time::sleep(*pause).await,
            Step::Publish(event) => {
                let message = self.message(*event, entities);
                let query = sqlx::query_scalar(PUBLISH)
                    .bind(&self.load.outbox)
                    .bind(message.payload)
                    .bind(message.headers)
                    .bind(message.key.as_deref());
                published.rows.push(PublishedRow {
                    id: query.fetch_one(&mut *connection).await?,
                    key: message.key.clone(),
                    order: message.order,
                });
            }
            Step::PublishMany(events) => {
                let rows = self.publish_many(connection, events, entities).await?;
                published.rows.extend(rows);
            }
            Step::SetSavepoint => {
                connection.execute(SAVEPOINT).await?;
                published.at_savepoint = published.rows.len();
            }
            Step::ReleaseSavepoint => {
                connection.execute("RELEASE SAVEPOINT event").await?;
            }
            Step::RollBackToSavepoint => {
                connection.execute("ROLLBACK TO SAVEPOINT event").await?;
                published.undone += (published.rows.len() - published.at_savepoint) as u64;
                published.rows.truncate(published.at_savepoint);
            }
        }
        Ok(())
    }

    /// The keys, locked unless the load does without.
    async fn entities(
        &self,
        connection: &mut PgConnection,
        plan: &Plan,
    ) -> Result<Vec<Entity>, sqlx::Error> {
        let keys: Vec<String> = plan.keys.iter().map(|number| key_name(*number)).collect();
        if self.load.key_order == KeyOrder::Unlocked {
            let unlocked = |key: String| Entity {
                key: key.into(),
                next_place: None,
            };
            return Ok(keys.into_iter().map(unlocked).collect());
        }
        let query = sqlx::query_as(LOCK).bind(&self.load.outbox).bind(&keys);
        let serials: HashMap<String, i64> = query
            .fetch_all(&mut *connection)
            .await?
            .into_iter()
            .collect();
        // More places than events: each key has room for all of them.
        let places = i64::try_from(plan.events()).unwrap_or(i64::MAX);
        let query = sqlx::query(TAKE_PLACES)
            .bind(&self.load.outbox)
            .bind(&keys)
            .bind(places);
        query.execute(connection).await?;
        let mut entities = Vec::with_capacity(keys.len());
        for key in keys {
            let serial = *serials.get(&key).ok_or(sqlx::Error::RowNotFound)?;
            entities.push(Entity {
                key: key.into(),
                next_place: Some(serial.unsigned_abs()),
            });
        }
        Ok(entities)
    }

    async fn publish_many(
        &self,
        connection: &mut PgConnection,
        events: &[Event],
        entities: &mut [Entity],
    ) -> Result<Vec<PublishedRow>, sqlx::Error> {
        let (mut payloads, mut headers) = (Vec::new(), Vec::new());
        let mut keys: Vec<Option<String>> = Vec::new();
        let mut rows = Vec::with_capacity(events.len());
        for event in events {
            let message = self.message(*event, entities);
            payloads.push(message.payload);
            headers.push(message.headers);
            keys.push(message.key.as_deref().map(str::to_owned));
            rows.push(PublishedRow {
                id: 0,
                key: message.key,
                order: message.order,
            });
        }
        let query = sqlx::query_scalar(PUBLISH_MANY)
            .bind(&self.load.outbox)
            .bind(payloads)
            .bind(headers)
            .bind(keys);
        let ids: Vec<i64> = query.fetch_one(connection).await?;
        if ids.len() != rows.len() {
            return Err(sqlx::Error::InvalidArgument(format!(
                "outbox_publish_many gave {} ids for {} messages",
                ids.len(),
                rows.len()
            )));
        }
        for (row, id) in rows.iter_mut().zip(ids) {
            row.id = id;
        }
        Ok(rows)
    }

    /// Makes an event and takes its place.
    fn message(&self, event: Event, entities: &mut [Entity]) -> Message {
        let entity = match event {
            Event::Keyed(index) => entities.get_mut(index),
            Event::Keyless => None,
        };
        let (key, order) = match entity {
            Some(entity) => {
                let order = entity.next_place;
                entity.next_place = order.map(|place| place + 1);
                (Some(Arc::clone(&entity.key)), order)
            }
            None => (None, None),
        };
        let entity = key
            .as_deref()
            .map_or(Value::Null, |key| json!({ "key": key, "place": order }));
        let payload = json!({ "entity": entity, "transaction": self.token, "text": self.filler });
        let headers = json!({ "entity": key.as_deref().unwrap_or("none"), "source": "load" });
        Message {
            payload: payload.to_string(),
            headers: headers.to_string(),
            key,
            order,
        }
    }
}
