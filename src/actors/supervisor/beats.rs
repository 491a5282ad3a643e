//! This node among others: one beat after the other in every database.
//!
//! A beat renews the node's row and its leases and answers what there is of others
//! (`core::nodes`). What follows from that is in `balance`.
//!
//! Every database has beats of its own: one that does not answer harms no other.
//!
//! Time is this process's monotonic clock. A lease and a node's row count from when
//! the beat was *begun*, so they end here before they do in the database.

use std::sync::Arc;
use std::time::Duration;

use actix::{AsyncContext, Context, Handler};

use super::{DatabaseSlot, Supervisor};
use crate::actors::child::Exit;
use crate::actors::fault;
use crate::actors::messages::{BeatAnswered, LeaseGivenBack, StopAs};
use crate::actors::pipeline_slot::Run;
use crate::admin::metrics::LeaseEvent;
use crate::admin::status::PipelineState;
use crate::config::desired::PipelineKey;
use crate::core::cluster::Cluster;
use crate::core::nodes::{BeatDone, BeatRequest, Renewal};
use crate::core::ports::{Epoch, PipelineName, StoreError};
use crate::core::sabotage::{self, Bug};
use crate::core::time::Moment;

/// The part of a lease within which a beat must be answered: one that hangs leaves
/// room for another one, on another connection, before the node has to stop.
const ANSWERED_WITHIN: u32 = 2;

/// The part of a lease that is the longest margin, see [`Supervisor::margin`].
const MOST_MARGIN: u32 = 4;

/// One database's beats.
pub(in crate::actors) struct Beats {
    pub(in crate::actors) cluster: Cluster,
    /// One is under way.
    beating: bool,
    pub(super) due: Moment,
    /// When the last one that was answered was begun.
    pub(super) renewed_at: Option<Moment>,
    failed: Option<StoreError>,
    /// It takes the node's row away when the beat under way has come back.
    leaves: bool,
}

impl Beats {
    pub(super) fn new(node: &Arc<str>, lease: Duration, now: Moment) -> Self {
        Self {
            cluster: Cluster::new(Arc::clone(node), lease),
            beating: false,
            due: now,
            renewed_at: None,
            failed: None,
            leaves: false,
        }
    }

    /// Why nothing is known of leases; `None` while the first answer is to come.
    pub(in crate::actors) fn why_unknown(&self) -> Option<PipelineState> {
        match self.failed.clone()? {
            StoreError::Unavailable(reason) => Some(PipelineState::Waiting {
                reason: format!("database: {reason}"),
            }),
            StoreError::Refused(reason) => Some(PipelineState::Failed { reason }),
        }
    }

    /// Until when this node may send what it claimed at this moment: its row must
    /// run as well as the lease.
    pub(in crate::actors) fn may_send_until(&self, claimed_at: Moment, lease: Duration) -> Moment {
        let from = self.renewed_at.map_or(claimed_at, |at| at.min(claimed_at));
        from + lease
    }
}

impl DatabaseSlot {
    /// The node's row goes, some time.
    pub(super) fn leave_behind(&self, node: &Arc<str>) {
        let (store, node) = (Arc::clone(&self.database.store), Arc::clone(node));
        tokio::spawn(async move {
            if let Err(error) = store.leave(&node).await {
                tracing::debug!(%error, "the node's row was not removed; it will expire");
            }
        });
    }
}

/// A lease is not this node's any more: nothing to worry about if it was given to another
/// node, or given back. The beat was under way when its reader did that.
fn say_lost(key: &PipelineKey, given_to: Option<&Arc<str>>, is_draining: bool) {
    match given_to {
        Some(to) => {
            tracing::debug!(pipeline = %key, %to, "the pipeline that was given away has a new owner");
        }
        None if is_draining => {
            tracing::info!(pipeline = %key, "the pipeline drains, and its lease is not this node's any more");
        }
        None => tracing::warn!(pipeline = %key, "another node has taken the pipeline"),
    }
}

impl Supervisor {
    /// How long before the end of a lease that could not be renewed its owner stops
    /// to begin calls: as long as a call may take, but no more than a quarter of the
    /// lease. A call that takes longer may store rows that the next owner sends as
    /// well: they come twice, and in order, since each of both sends a key's rows in
    /// order from the same durable position.
    pub(super) fn margin(&self) -> Duration {
        let lease = self.settings.cluster.lease;
        self.settings
            .kinesis
            .operation_timeout
            .min(lease / MOST_MARGIN)
    }

    // === Beating ===

    pub(super) fn beat_where_due(&mut self, context: &Context<Self>) {
        let now = self.clock.now();
        let is_due = |slot: &DatabaseSlot| {
            !slot.beats.beating && !slot.beats.leaves && now >= slot.beats.due
        };
        let due = self.databases.iter().filter(|(_, slot)| is_due(slot));
        let due: Vec<Arc<str>> = due.map(|(name, _)| Arc::clone(name)).collect();
        for database in due {
            self.beat(&database, context);
        }
    }

    /// All databases are told at once that this node drains.
    pub(super) fn beat_everywhere(&mut self, context: &Context<Self>) {
        let now = self.clock.now();
        for slot in self.databases.values_mut() {
            slot.beats.due = now;
        }
        self.beat_where_due(context);
    }

    fn beat(&mut self, database: &Arc<str>, context: &Context<Self>) {
        let now = self.clock.now();
        let owned = self.pipelines.iter();
        let owned = owned.filter(|(key, _)| key.database == *database);
        let held: Vec<(PipelineName, Epoch)> = owned
            .filter_map(|(key, pipeline)| Some((Arc::clone(&key.name), pipeline.epoch()?)))
            .collect();
        let is_draining = self.is_draining();
        let (demand, shares) = self.notes_for_beat(database);
        let Some(slot) = self.databases.get_mut(database) else {
            return;
        };
        slot.beats.beating = true;
        let draining = is_draining || slot.is_ending();
        let (asks, known) = (
            slot.beats.cluster.asks().to_vec(),
            slot.beats.cluster.digest().to_owned(),
        );
        let (store, node) = (Arc::clone(&slot.database.store), Arc::clone(&self.node));
        let (database, generation) = (Arc::clone(database), slot.generation());
        let lease = self.settings.cluster.lease;
        let supervisor = context.address();
        tokio::spawn(async move {
            let request = BeatRequest {
                node: &node,
                lease,
                draining,
                held: &held,
                asks: &asks,
                demand: &demand,
                shares: &shares,
                known: &known,
            };
            let patience = lease / ANSWERED_WITHIN;
            let beat = tokio::time::timeout(patience, store.beat(request)).await;
            let result = beat.unwrap_or_else(|_| {
                let reason = format!("no answer within {patience:?}");
                Err(StoreError::Unavailable(reason))
            });
            let answered = BeatAnswered {
                database,
                held,
                asked_at: now,
                generation,
                result,
            };
            // Only a stopped supervisor does not hear it.
            supervisor.try_send(answered).ok();
        });
    }

    fn beat_answered(&mut self, answered: BeatAnswered, context: &mut Context<Self>) {
        let BeatAnswered {
            database,
            held,
            asked_at,
            generation,
            result,
        } = answered;
        let slot = self.databases.get_mut(&database);
        let Some(slot) = slot.filter(|slot| slot.generation() == generation) else {
            return;
        };
        slot.beats.beating = false;
        if slot.beats.leaves {
            self.leave(&database, context);
            return;
        }
        match result {
            Ok(done) => {
                slot.beats.renewed_at = Some(asked_at);
                slot.beats.failed = None;
                slot.beats.cluster.heard(&done, asked_at);
                self.renewed(&database, held, &done, asked_at);
                let had_lapsed = self.shares.has_lapsed();
                self.heard_beat(&database, asked_at, &done, context);
                let plan = self.act(&database, asked_at, context);
                if had_lapsed && !self.shares.has_lapsed() {
                    // What waited for a share in other databases.
                    self.plan_anew(context);
                }
                self.show_nodes(&database, &done, plan);
            }
            Err(error) => {
                tracing::debug!(%database, %error, "a beat was not answered: leases were not renewed");
                slot.beats.failed = Some(error);
                slot.beats.due = asked_at + Cluster::pace(self.settings.cluster.lease);
                self.claim_all_waiting(&database, context);
            }
        }
    }

    // === Leases ===

    fn renewed(
        &mut self,
        database: &Arc<str>,
        held: Vec<(PipelineName, Epoch)>,
        done: &BeatDone,
        asked_at: Moment,
    ) {
        let lease = self.settings.cluster.lease;
        let is_draining = self.is_draining();
        for ((name, asked_epoch), renewal) in held.into_iter().zip(&done.held) {
            let key = PipelineKey {
                database: Arc::clone(database),
                name,
            };
            let Some(slot) = self.pipelines.get_mut(&key) else {
                continue;
            };
            let Run::Running {
                reader,
                epoch,
                lease_until,
                ..
            } = &mut slot.run
            else {
                continue;
            };
            if *epoch != asked_epoch {
                continue;
            }
            match renewal {
                Renewal::Renewed => {
                    self.metrics.lease_event(LeaseEvent::Renewed);
                    *lease_until = asked_at + lease;
                }
                Renewal::Locked => {
                    tracing::debug!(pipeline = %key, "the lease's row is locked; it was not renewed");
                }
                Renewal::Lost => {
                    let drains = is_draining || slot.drain.is_some();
                    say_lost(&key, slot.given_to.as_ref(), drains);
                    reader.try_send(StopAs(Exit::LeaseLost)).ok();
                }
            }
        }
    }

    /// An owner that could not renew stops sending before its lease can expire.
    pub(super) fn drop_expired_leases(&self) {
        let now = self.clock.now();
        let margin = self.margin();
        for (key, slot) in &self.pipelines {
            let Run::Running {
                reader,
                lease_until,
                ..
            } = &slot.run
            else {
                continue;
            };
            if now + margin < *lease_until || sabotage::is(Bug::ExpiredLeaseKept) {
                continue;
            }
            if reader.try_send(StopAs(Exit::LeaseExpired)).is_err() {
                // It is full, or has ended: it is told again, and shown by then.
                continue;
            }
            tracing::warn!(pipeline = %key, "the lease could not be renewed in time; the pipeline stops");
            let reason = "the lease could not be renewed in time".to_owned();
            self.show(key, slot, PipelineState::Waiting { reason });
        }
    }

    // === Leaving ===

    /// Takes the node's rows away; others then need not wait for them to expire.
    /// Answers how many are under way.
    pub(super) fn leave_everywhere(&mut self, context: &Context<Self>) {
        let names: Vec<Arc<str>> = self.databases.keys().cloned().collect();
        for database in names {
            let Some(slot) = self.databases.get_mut(&database) else {
                continue;
            };
            if slot.beats.renewed_at.is_none() || slot.beats.failed.is_some() {
                continue;
            }
            self.leases_returning += 1;
            let was_beating = slot.beats.beating;
            slot.beats.leaves = true;
            if !was_beating {
                self.leave(&database, context);
            }
        }
    }

    fn leave(&self, database: &Arc<str>, context: &Context<Self>) {
        let Some(slot) = self.databases.get(database) else {
            return;
        };
        let (store, node) = (Arc::clone(&slot.database.store), Arc::clone(&self.node));
        let (database, supervisor) = (Arc::clone(database), context.address());
        tokio::spawn(async move {
            if let Err(error) = store.leave(&node).await {
                tracing::debug!(%database, %error, "the node's row was not removed; it will expire");
            }
            // Only a stopped supervisor does not hear it.
            supervisor.try_send(LeaseGivenBack).ok();
        });
    }
}

impl Handler<BeatAnswered> for Supervisor {
    type Result = ();

    fn handle(&mut self, message: BeatAnswered, context: &mut Context<Self>) {
        fault::point("supervisor.BeatAnswered");
        self.beat_answered(message, context);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::Mutex;

    use super::*;

    /// What was logged.
    #[derive(Debug, Default)]
    struct Log(Mutex<Vec<u8>>);

    impl Write for &Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn said(given_to: Option<&str>, is_draining: bool) -> String {
        let log = Arc::new(Log::default());
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .without_time()
            .with_writer(Arc::clone(&log))
            .finish();
        let key = PipelineKey {
            database: "default".into(),
            name: "events".into(),
        };
        let given_to = given_to.map(Arc::from);
        tracing::subscriber::with_default(subscriber, || {
            say_lost(&key, given_to.as_ref(), is_draining)
        });
        let bytes = log.0.lock().expect("not poisoned").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn a_lease_that_was_given_away_is_no_warning() {
        let given = said(Some("other"), false);
        assert!(given.trim_start().starts_with("DEBUG"), "{given}");
        assert!(given.contains("given away has a new owner"), "{given}");
        assert!(given.contains("to=other"), "{given}");
        let back = said(None, true);
        assert!(back.trim_start().starts_with("INFO"), "{back}");
        assert!(
            back.contains("its lease is not this node's any more"),
            "{back}"
        );
        let taken = said(None, false);
        assert!(taken.trim_start().starts_with("WARN"), "{taken}");
        assert!(
            taken.contains("another node has taken the pipeline"),
            "{taken}"
        );
    }
}
