//! Which server answers behind a URL, and whether it is the same as before.
//!
//! A URL may come to mean another server: a failover, a restart, a database that
//! was restored elsewhere. What was read from one must not be mixed with what is
//! read from another. Rules:
//! - every new connection asks who answers; another start time is another server
//!   (or another life of it), and [`ServerInfo::generation`] counts them;
//! - a standby is not a primary: its snapshots leave out what runs on the
//!   primary, and its tables lag behind. Nothing is read from it;
//! - one URL may lead to a primary and a standby in turn (a round-robin name, a
//!   proxy that is late): for a minute after a standby was met every call asks the
//!   connection it uses, and connections made until then are made anew;
//! - a session keeps the `default_transaction_read_only` it was begun with: when a
//!   write is refused for that, the next try is made on a new connection;
//! - behind a pooler that shares sessions a connection says nothing of the server
//!   the next statement meets, so there every transaction asks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::{PgConnection, Row};
use tokio::time::Instant;

use crate::core::ports::{ServerInfo, StoreError};

/// One round trip, in a transaction of its own even behind a pooler.
const WHO: &str = "SELECT pg_is_in_recovery(), pg_postmaster_start_time()::text, \
    current_setting('server_version')";

/// What not every server tells everybody: `pg_control_system` may be revoked, and
/// not every storage has WAL file names.
const WHICH: &str = "SELECT (SELECT c.system_identifier::text FROM pg_control_system() AS c), \
    ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int::text";

/// Whether a transaction may use the server it has met.
pub(super) const IS_STANDBY: &str = "SELECT pg_is_in_recovery()";

/// For so long after a standby was met each call asks whom it meets.
const DOUBT: Duration = Duration::from_secs(60);

/// A connection counts as made when it was looked at, a little after that.
const LOOK_TIME: Duration = Duration::from_secs(1);

/// What is said of a standby.
pub(super) fn standby() -> StoreError {
    StoreError::Unavailable(
        "the server is a standby (read-only): messages are read on the primary only; point the \
         database URL at the primary, or wait until this server is promoted"
            .to_owned(),
    )
}

/// The server that answered last. Cloning it shares it.
#[derive(Debug, Clone, Default)]
pub struct ServerWatch(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    server: Option<Arc<ServerInfo>>,
    is_standby: bool,
    /// When a standby was met last.
    standby_met: Option<Instant>,
    /// Connections made before this are made anew.
    distrusted: Option<Instant>,
}

impl ServerWatch {
    /// The server that answered last.
    #[must_use]
    pub fn server(&self) -> Option<Arc<ServerInfo>> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.server.clone()
    }

    /// Whether the server that answered last was a standby.
    pub(super) fn is_standby(&self) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.is_standby
    }

    /// Whether a call has to ask the connection it uses.
    pub(super) fn is_in_doubt(&self) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.standby_met.is_some_and(|met| met.elapsed() < DOUBT)
    }

    /// What a session was set up with at its start may be wrong by now: connections
    /// made so far are not used any more.
    pub(super) fn distrust_sessions(&self) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.distrusted = Some(Instant::now());
    }

    /// Whether a connection of this age may be used again.
    pub(super) fn trusts(&self, age: Duration) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = seen.distrusted.is_some_and(|since| since.elapsed() < age);
        !seen.is_standby && !is_old
    }

    /// Asks a new connection who answers.
    pub(super) async fn look(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let row = sqlx::raw_sql(WHO).fetch_one(&mut *connection).await?;
        let is_standby: bool = row.try_get(0)?;
        let mut server = ServerInfo {
            generation: 0,
            started_at: row.try_get(1)?,
            version: row.try_get(2)?,
            system_identifier: None,
            timeline: None,
        };
        if !is_standby && let Ok(row) = sqlx::raw_sql(WHICH).fetch_one(connection).await {
            server.system_identifier = row.try_get(0)?;
            let timeline: Option<String> = row.try_get(1)?;
            server.timeline = timeline.and_then(|timeline| timeline.parse().ok());
        }
        self.saw(server, is_standby);
        Ok(())
    }

    fn saw(&self, mut server: ServerInfo, is_standby: bool) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.is_standby = is_standby;
        if is_standby {
            let now = Instant::now();
            seen.standby_met = Some(now);
            seen.distrusted = Some(now + LOOK_TIME);
            return;
        }
        server.generation = match &seen.server {
            Some(before) if before.is_same_as(&server) => before.generation,
            Some(before) => before.generation + 1,
            None => 1,
        };
        seen.server = Some(Arc::new(server));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_counted_and_standbys_are_not() {
        let watch = ServerWatch::default();
        let server = |started_at: &str, timeline| ServerInfo {
            generation: 0,
            started_at: started_at.to_owned(),
            version: "15".to_owned(),
            system_identifier: None,
            timeline,
        };
        let generation = || watch.server().map(|server| server.generation);
        assert_eq!(generation(), None);
        watch.saw(server("a", Some(1)), false);
        watch.saw(server("a", None), false);
        assert_eq!(generation(), Some(1));
        watch.saw(server("b", Some(1)), true);
        assert!(watch.is_standby());
        assert_eq!(generation(), Some(1));
        watch.saw(server("b", Some(2)), false);
        assert!(!watch.is_standby());
        assert!(watch.is_in_doubt(), "another connection may lead to it");
        assert!(!watch.trusts(Duration::from_millis(1)), "this one may");
        assert_eq!(generation(), Some(2));
    }

    #[test]
    fn distrusted_connections_are_the_older_ones() {
        let watch = ServerWatch::default();
        assert!(watch.trusts(Duration::MAX));
        watch.distrust_sessions();
        assert!(watch.trusts(Duration::ZERO));
        assert!(!watch.trusts(Duration::from_secs(3600)));
    }
}
