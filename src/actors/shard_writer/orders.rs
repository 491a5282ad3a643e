//! What the router wants from a writer beside sending.

use std::collections::HashMap;

use actix::{Context, Handler};

use super::ShardWriter;
use crate::actors::fault;
use crate::actors::messages::{CallRefused, Orders, RoutedRow, WentTo};
use crate::core::dispatch::Answer;
use crate::core::ports::{CallFailure, RecordOutcome};
use crate::core::shard_map::{HashRange, ShardId};

impl ShardWriter {
    /// Says where the records of a call went, if the router wants to know.
    pub(super) fn say_where(&self, answer: &Answer<RoutedRow>) {
        if !self.orders.say_where || answer.stored.is_empty() {
            return;
        }
        let mut places: HashMap<&ShardId, HashRange> = HashMap::new();
        for stored in &answer.stored {
            for hash in stored.parcel.hashes() {
                let range = places.entry(&stored.shard).or_insert(HashRange {
                    first: hash,
                    last: hash,
                });
                range.first = range.first.min(hash);
                range.last = range.last.max(hash);
            }
        }
        let places = places.into_iter().map(|(id, range)| (id.clone(), range));
        let places = places.collect();
        if self.parts.router.try_send(WentTo { places }).is_err() {
            tracing::debug!(shard = %self.parts.shard, "the router is gone");
        }
    }

    /// Tells the router of a call that only somebody can mend.
    pub(super) fn tell_of_refusal(&self, answer: &Result<Vec<RecordOutcome>, CallFailure>) {
        let is_refused = matches!(answer, Err(CallFailure::Operator { .. }));
        if is_refused && self.parts.router.try_send(CallRefused).is_err() {
            tracing::debug!(shard = %self.parts.shard, "the router is gone");
        }
    }
}

impl Handler<Orders> for ShardWriter {
    type Result = ();

    fn handle(&mut self, orders: Orders, context: &mut Context<Self>) {
        fault::point("shard_writer.Orders");
        // Shards that are learnt from answers are guessed at their edges.
        self.dispatch.guesses_range(orders.say_where);
        let was_held = std::mem::replace(&mut self.orders, orders).hold;
        if was_held && !orders.hold {
            self.dispatch.try_now(self.parts.clock.now());
        }
        self.go_on(context);
    }
}
