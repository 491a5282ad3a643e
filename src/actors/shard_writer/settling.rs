//! What the answer to a call means for its rows: metrics, permits, readers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ShardWriter, tell};
use crate::actors::messages::{Outcomes, Purpose, RejectedRow, RoutedRow};
use crate::actors::permits::FlowTag;
use crate::actors::ticket::SettledTickets;
use crate::admin::metrics::{PipelineMetrics, RetryReason, StoredRecords};
use crate::core::dead_letter::OnPoison;
use crate::core::dispatch::{Answer, Rejected};
use crate::core::ports::{CallFailure, RecordOutcome};
use crate::core::position::Seq;
use crate::core::send_queue::{FlowId, Parcel};

/// Rows of one flow that are in the stream.
struct Settled {
    tickets: SettledTickets,
    /// With their hash keys.
    rows: Vec<(Seq, u128)>,
    /// Data and keys, in bytes.
    bytes: usize,
}

impl Settled {
    fn of(tag: &Arc<FlowTag>) -> Self {
        Self {
            tickets: SettledTickets::of(Arc::clone(tag)),
            rows: Vec::new(),
            bytes: 0,
        }
    }

    /// The permits are free before the reader hears of it.
    fn tell(self) {
        let Self {
            tickets,
            rows,
            bytes,
        } = self;
        let tag = Arc::clone(tickets.tag());
        tag.metrics.delivered(rows.len(), bytes);
        tickets.end();
        let outcomes = Outcomes {
            stored: rows,
            ..Outcomes::default()
        };
        tell(&tag, outcomes);
    }
}

impl ShardWriter {
    /// Counts the records that were stored, and those whose rows will be sent again.
    /// Asked while the call is in flight.
    pub(super) fn count_records(&self, answer: &Result<Vec<RecordOutcome>, CallFailure>) {
        let whole = retry_reason(answer);
        // Of the flow whose turn it is, which mostly has many in a row.
        let mut stored: Option<(&PipelineMetrics, FlowId, StoredRecords)> = None;
        for (place, parcel) in self.dispatch.in_flight().iter().enumerate() {
            let metrics = &parcel.first().ticket.tag().metrics;
            let reason = match answer {
                Err(_) => whole,
                Ok(outcomes) => match outcomes.get(place) {
                    None => Some(RetryReason::Unknown),
                    Some(RecordOutcome::Stored { shard, .. }) => {
                        let (of, flow, mut records) = stored
                            .take()
                            .unwrap_or_else(|| (metrics, parcel.flow, StoredRecords::default()));
                        if flow != parcel.flow {
                            of.records_stored(std::mem::take(&mut records));
                        }
                        records.add(parcel.weight());
                        stored = Some((metrics, parcel.flow, records));
                        let is_misplaced = self.dispatch.is_misplaced(parcel, shard);
                        is_misplaced.then_some(RetryReason::Misplaced)
                    }
                    Some(RecordOutcome::Throttled) => Some(RetryReason::Throttled),
                    Some(RecordOutcome::Failed { .. }) => Some(RetryReason::Failed),
                },
            };
            let Some(reason) = reason else {
                continue;
            };
            metrics.retried(1, reason);
            if reason == RetryReason::Throttled {
                metrics.throttled(1);
            }
        }
        if let Some((metrics, _, records)) = stored {
            metrics.records_stored(records);
        }
    }

    /// Frees the permits of stored rows and tells the readers.
    pub(super) fn settle(&mut self, answer: Answer<RoutedRow>) {
        if answer.misplaced > 0 {
            let (shard, rows) = (&self.parts.shard, answer.misplaced);
            tracing::info!(%shard, rows, "records of many rows went to another shard; the rows go again one by one");
        }
        let mut per_flow: BTreeMap<FlowId, Settled> = BTreeMap::new();
        let parcels = answer.stored.into_iter().map(|stored| stored.parcel);
        for row in parcels.flat_map(Parcel::into_rows) {
            let RoutedRow {
                envelope, ticket, ..
            } = row;
            let (hash, weight) = (envelope.hash, envelope.weight());
            self.hot_keys.sent(hash, &envelope.key, weight);
            let settled = per_flow
                .entry(ticket.tag().flow.id)
                .or_insert_with(|| Settled::of(ticket.tag()));
            settled.tickets.add(ticket);
            settled.rows.push((envelope.seq, hash));
            settled.bytes += weight;
        }
        if !per_flow.is_empty() {
            self.parts.pulse.progress();
        }
        for settled in per_flow.into_values() {
            settled.tell();
        }
        if let Some(rejected) = answer.rejected {
            self.give_up(rejected);
        }
    }

    /// The service does not take a row: what follows of its key is the pipeline's
    /// choice.
    fn give_up(&mut self, rejected: Rejected<RoutedRow>) {
        let (flow, hash) = (rejected.flow, rejected.row.envelope.hash);
        let tag = Arc::clone(rejected.row.ticket.tag());
        let policy = match rejected.row.purpose {
            Purpose::Live => tag.on_poison,
            Purpose::Letter if tag.on_poison == OnPoison::BlockKey => OnPoison::BlockKey,
            Purpose::Letter | Purpose::Again => OnPoison::Park,
        };
        let unsent = match policy {
            OnPoison::Park => {
                self.dispatch.pass_over(flow, hash);
                Vec::new()
            }
            OnPoison::BlockKey => {
                tag.rejected_keys.add(hash);
                self.dispatch.take_key(flow, hash)
            }
            // The key stays held: its reader ends this flow.
            OnPoison::Halt => Vec::new(),
        };
        let Rejected {
            row, code, message, ..
        } = rejected;
        let rejected = RejectedRow {
            row,
            reason: format!("Kinesis refuses the record: {message} ({code})"),
            shown: format!("Kinesis refuses the record ({code})"),
        };
        let outcomes = Outcomes {
            rejected: Some(rejected),
            unsent,
            ..Outcomes::default()
        };
        tell(&tag, outcomes);
    }
}

fn retry_reason(answer: &Result<Vec<RecordOutcome>, CallFailure>) -> Option<RetryReason> {
    match answer {
        Ok(_) => None,
        Err(CallFailure::Throttled { .. }) => Some(RetryReason::Throttled),
        Err(CallFailure::Unknown { .. }) => Some(RetryReason::Unknown),
        Err(CallFailure::Credentials { .. }) => Some(RetryReason::Credentials),
        Err(CallFailure::Operator { .. }) => Some(RetryReason::Operator),
        Err(CallFailure::BadRecord { .. }) => Some(RetryReason::Failed),
    }
}
