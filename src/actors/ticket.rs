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
        let ticket = |bytes: &usize| Self {
            tag: Arc::clone(tag),
            bytes: *bytes,
            settled: false,
            given_back: false,
            holder: None,
            alone: alone.take(),
        };
        bytes.iter().map(ticket).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::messages::Outcomes;
    use crate::actors::permits::{Patience, Pool, RejectedKeys, SharedPool, Void};
    use crate::actors::tenants::Tenants;
    use crate::admin::metrics::Metrics;
    use crate::core::dead_letter::OnPoison;
    use crate::core::ports::Epoch;
    use crate::core::send_queue::{Flow, Shares};
    use crate::core::time::Moment;
    use actix::{Actor, Context, Handler};
    use prometheus::Registry;

    struct Reader;

    impl Actor for Reader {
        type Context = Context<Self>;
    }

    impl Handler<Outcomes> for Reader {
        type Result = ();

        fn handle(&mut self, _: Outcomes, _: &mut Self::Context) {}
    }

    const POOL: usize = 1_000_000;

    fn tag() -> (Arc<FlowTag>, Arc<SharedPool>) {
        let metrics = Metrics::new(Registry::new()).expect("fresh names");
        let tenant: Arc<str> = "t".into();
        let shared = Arc::new(SharedPool::new(POOL, metrics.memory()));
        let flow = Flow {
            id: 7,
            tenant: Arc::clone(&tenant),
            shares: Arc::new(Shares::new(1, 1, 500)),
            packing: None,
        };
        let tag = FlowTag {
            pipeline: "p".into(),
            epoch: Epoch(1),
            flow,
            reader: Reader.start().recipient(),
            metrics: metrics.pipeline(["d", "p", "t", "s"]),
            own: Pool::new(100, POOL),
            shared: Arc::clone(&shared).join(&tenant),
            tenant: Tenants::new(metrics).get(&tenant, Moment::ORIGIN),
            void: Void::default(),
            on_poison: OnPoison::Park,
            rejected_keys: RejectedKeys::default(),
            patience: Patience::default(),
            recalled: false.into(),
        };
        (Arc::new(tag), shared)
    }

    /// Rows and bytes of the pipeline, and bytes of the process's pool.
    fn used(tag: &FlowTag, shared: &SharedPool) -> [usize; 3] {
        [tag.own.rows(), tag.own.bytes(), shared.used_by("t")]
    }

    /// Whether rows lie in the writer: it harms their flows to give it up.
    fn harms(holder: &Holder) -> bool {
        holder.give_up() > 0
    }

    #[actix::test]
    async fn permits_are_taken_and_given_back_together() {
        let (tag, shared) = tag();
        let holder = Arc::new(Holder::default());
        let mut tickets = Ticket::take_all(&tag, &[10, 20, 30], None);
        assert_eq!(used(&tag, &shared), [3, 60, 60]);
        Ticket::enter_all(tickets.iter_mut(), &holder);
        let mut settled = SettledTickets::of(Arc::clone(&tag));
        for ticket in tickets.drain(..2) {
            settled.add(ticket);
        }
        assert_eq!(used(&tag, &shared), [3, 60, 60], "not yet");
        settled.end();
        assert_eq!(used(&tag, &shared), [1, 30, 30]);
        tickets.into_iter().for_each(Ticket::settle);
        assert_eq!(used(&tag, &shared), [0, 0, 0]);
        assert!(!harms(&holder), "nothing is left in the writer");
        assert!(!tag.is_void());
    }

    #[actix::test]
    async fn a_row_that_goes_alone_takes_nothing_from_others() {
        let (tag, shared) = tag();
        let pass = tag.shared.go_alone(2 * POOL);
        assert!(pass.is_some());
        let tickets = Ticket::take_all(&tag, &[2 * POOL, 5], pass);
        assert_eq!(used(&tag, &shared), [2, 2 * POOL + 5, 5]);
        assert!(tag.shared.go_alone(1).is_none(), "one at a time");
        let mut settled = SettledTickets::of(Arc::clone(&tag));
        tickets.into_iter().for_each(|ticket| settled.add(ticket));
        settled.end();
        assert_eq!(used(&tag, &shared), [0, 0, 0]);
        assert!(tag.shared.go_alone(1).is_some(), "the next one may");
    }

    #[actix::test]
    async fn a_row_that_is_lost_makes_its_flow_void() {
        let (tag, shared) = tag();
        let holder = Arc::new(Holder::default());
        let mut tickets = Ticket::take_all(&tag, &[10, 20], None);
        Ticket::enter_all(tickets.iter_mut(), &holder);
        drop(tickets);
        assert!(tag.is_void());
        assert_eq!(used(&tag, &shared), [0, 0, 0]);
        assert!(!harms(&holder), "nothing is left in the writer");
    }

    #[actix::test]
    async fn settled_rows_of_which_nobody_is_told_make_their_flow_void() {
        let (tag, shared) = tag();
        let mut settled = SettledTickets::of(Arc::clone(&tag));
        for ticket in Ticket::take_all(&tag, &[10], None) {
            settled.add(ticket);
        }
        drop(settled);
        assert!(tag.is_void());
        assert_eq!(used(&tag, &shared), [0, 0, 0]);
    }
}
