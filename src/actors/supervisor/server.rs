//! Which server answers for a database: shown, and logged when it is another one.

use std::sync::Arc;

use super::DatabaseSlot;
use crate::admin::status::{ServerStatus, StatusBoard};
use crate::core::ports::ServerInfo;

impl DatabaseSlot {
    /// Readers notice a change by themselves and take their pipelines anew; this
    /// says it.
    pub(super) fn look_at_server(&mut self, board: &StatusBoard) {
        let database = &self.database.name;
        let Some(server) = self.database.store.server() else {
            return;
        };
        match &self.server {
            Some(before) if before.generation == server.generation => return,
            Some(before) => log_change(database, before, &server),
            None => {
                let ServerInfo {
                    version,
                    system_identifier,
                    timeline,
                    ..
                } = &*server;
                tracing::info!(%database, %version, ?system_identifier, ?timeline, "connected");
            }
        }
        board.set_server(
            database,
            ServerStatus {
                started_at: server.started_at.clone(),
                version: server.version.clone(),
                system_identifier: server.system_identifier.clone(),
                timeline: server.timeline,
            },
        );
        self.server = Some(server);
    }
}

fn log_change(database: &Arc<str>, before: &ServerInfo, now: &ServerInfo) {
    let is_other_cluster = matches!(
        (&before.system_identifier, &now.system_identifier),
        (Some(before), Some(now)) if before != now
    );
    let (from, to) = (before.timeline, now.timeline);
    if is_other_cluster {
        let (from, to) = (&before.system_identifier, &now.system_identifier);
        tracing::warn!(%database, ?from, ?to, "another cluster answers for the database: restored, moved or upgraded");
    } else if from != to {
        tracing::warn!(%database, ?from, ?to, "the timeline of the server has changed: another primary, or a recovery; rows in flight are sent again");
    } else {
        let (from, to) = (&before.started_at, &now.started_at);
        tracing::warn!(%database, %from, %to, "the server was started anew; rows in flight are sent again");
    }
}
