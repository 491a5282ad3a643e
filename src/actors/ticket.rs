//! The permits of rows on their way, one for each row; taken for a page and given back
//! for a call at once.

use std::sync::Arc;

use super::holder::Holder;
use super::permits::{AlonePass, FlowTag};
use crate::core::sabotage::{self, Bug};

/// The permit of one row on its way, see [`super::permits`].
#[derive(Debug)]
pub struct Ticket {
    tag: Arc<FlowTag>,
    bytes: usize,
    settled: bool,
    /// Its permit is given back with those of other rows.
    given_back: bool,
    /// The writer it was handed to.
    holder: Option<Arc<Holder>>,
    /// Its row goes beside what all others have.
    alone: Option<AlonePass>,
}

impl Ticket {
    /// Takes a permit for a row of `bytes` bytes.
    #[must_use]
    pub fn take(tag: &Arc<FlowTag>, bytes: usize) -> Self {
        tag.own.take(1, bytes);
        tag.shared.take(bytes);
        Self::taken(tag, bytes, None)
    }

    /// Takes permits for rows of so many bytes; the first of them may have a pass to go
    /// alone.
    #[must_use]
    pub fn take_all(
        tag: &Arc<FlowTag>,
        bytes: &[usize],
        mut alone: Option<AlonePass>,
    ) -> Vec<Self> {
        let all: usize = bytes.iter().sum();
        let beside = match (&alone, bytes.first()) {
            (Some(_), Some(first)) => *first,
            (Some(_) | None, _) => 0,
        };
        tag.own.take(bytes.len(), all);
        if all > beside {
            tag.shared.take(all - beside);
        }
        let ticket = |bytes: &usize| Self::taken(tag, *bytes, alone.take());
        bytes.iter().map(ticket).collect()
    }

    fn taken(tag: &Arc<FlowTag>, bytes: usize, alone: Option<AlonePass>) -> Self {
        Self {
            tag: Arc::clone(tag),
            bytes,
            settled: false,
            given_back: false,
            holder: None,
            alone,
        }
    }

    /// Whose row it is.
    #[must_use]
    pub const fn tag(&self) -> &Arc<FlowTag> {
        &self.tag
    }

    /// These rows, all of one flow, are handed to a writer.
    pub fn enter_all<'a>(tickets: impl Iterator<Item = &'a mut Self>, holder: &Arc<Holder>) {
        let (mut rows, mut of) = (0, None);
        for ticket in tickets {
            ticket.leave();
            ticket.holder = Some(Arc::clone(holder));
            rows += 1;
            of.get_or_insert(&ticket.tag);
        }
        if let Some(tag) = of {
            holder.enter(tag.flow.id, rows, &tag.void);
        }
    }

    /// The row leaves the writer it was handed to.
    pub fn leave(&mut self) {
        if let Some(holder) = self.holder.take() {
            holder.leave(self.tag.flow.id, 1);
        }
    }

    /// The row is settled: its reader is told by message, and the permit is free.
    pub fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.leave();
        if self.given_back {
            return;
        }
        self.tag.own.give_back(1, self.bytes);
        if self.alone.is_none() {
            self.tag.shared.give_back(self.bytes);
        }
        if self.settled {
            return;
        }
        // Counted here and nowhere else: a row is either confirmed or given up.
        self.tag.metrics.rows_returned(1);
        if !sabotage::is(Bug::LostRowsIgnored) {
            self.tag.make_void();
        }
    }
}

/// Permits of rows of one flow that are settled: dropping it gives all of them back. Its
/// reader must hear of them; should that not come to pass, the flow is void.
#[derive(Debug)]
pub struct SettledTickets {
    tag: Arc<FlowTag>,
    rows: usize,
    bytes: usize,
    /// What of them the process's pool has.
    shared: usize,
    holder: Option<Arc<Holder>>,
    held: usize,
    is_told: bool,
}

impl SettledTickets {
    /// None yet, of this flow.
    #[must_use]
    pub const fn of(tag: Arc<FlowTag>) -> Self {
        Self {
            tag,
            rows: 0,
            bytes: 0,
            shared: 0,
            holder: None,
            held: 0,
            is_told: false,
        }
    }

    /// The permits are free, and the reader is told next.
    pub fn end(mut self) {
        self.is_told = true;
    }

    /// Whose rows they are.
    #[must_use]
    pub const fn tag(&self) -> &Arc<FlowTag> {
        &self.tag
    }

    /// One more row of the flow is settled.
    pub fn add(&mut self, mut ticket: Ticket) {
        self.rows += 1;
        self.bytes += ticket.bytes;
        if ticket.alone.is_none() {
            self.shared += ticket.bytes;
        }
        ticket.given_back = true;
        let Some(holder) = ticket.holder.take() else {
            return;
        };
        let one = self.holder.get_or_insert_with(|| Arc::clone(&holder));
        if Arc::ptr_eq(one, &holder) {
            self.held += 1;
        } else {
            holder.leave(self.tag.flow.id, 1);
        }
    }
}

impl Drop for SettledTickets {
    fn drop(&mut self) {
        if let Some(holder) = &self.holder {
            holder.leave(self.tag.flow.id, self.held);
        }
        self.tag.own.give_back(self.rows, self.bytes);
        if self.shared > 0 {
            self.tag.shared.give_back(self.shared);
        }
        if !self.is_told && self.rows > 0 {
            self.tag.make_void();
        }
    }
}
