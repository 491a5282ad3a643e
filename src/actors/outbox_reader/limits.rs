//! What keeps a reader from reading rows that are there: a rate, or the memory.

use super::{OutboxReader, PERMIT_RETRY};
use crate::actors::reservation::Reservation;
use crate::actors::tenants::KeptAt;
use crate::core::intake::Room;
use crate::core::tenant::Limit;
use crate::core::time::Moment;

impl OutboxReader {
    /// When to look again for permits and rates, if the room for a read is used up.
    /// Only a reader with something to read contends with others for its tenant's rate.
    pub(super) fn retry_at(&mut self, room: Room, now: Moment) -> Option<Moment> {
        let starved = (room.rows == 0 || room.bytes == 0) && self.stopped.is_none();
        let limit = starved.then(|| self.limited_by(now)).flatten();
        self.note_limit(limit, now);
        // Whom its own rate holds back does not contend for its tenant's.
        let of_tenant = limit == Some(Limit::Quota) && self.quota.rows(self.weight, now) == 0;
        let of_tenant = if of_tenant {
            self.quota.next_at(now)
        } else {
            self.quota.rest();
            now
        };
        let by_rates = self.limiter.next_at(now).max(of_tenant);
        starved.then(|| by_rates.max(now + PERMIT_RETRY))
    }

    /// What keeps it from reading, if there is something to read.
    fn limited_by(&mut self, now: Moment) -> Option<Limit> {
        if !self.intake.would_read(now) {
            return None;
        }
        if self.rows_by_rates(now) == 0 {
            return Some(Limit::Quota);
        }
        // A reader with all it may have on its way waits for the shards.
        let own = &self.tag.own;
        let has_own = own.free_rows() > 0 && own.free_bytes() > 0;
        (has_own && Reservation::most(&self.tag) == 0).then_some(Limit::Memory)
    }

    /// So many rows are read: with all that the rates allow, it would have read more.
    pub(super) fn note_read(&mut self, rows: usize, now: Moment) {
        let is_all = rows >= self.rows_by_rates(now);
        self.note_limit(is_all.then_some(Limit::Quota), now);
    }

    /// The rows that the rates of the pipeline and its tenant allow now.
    pub(super) fn rows_by_rates(&mut self, now: Moment) -> usize {
        let weight = self.weight.max(1);
        let own = self.limiter.rows(weight, now);
        own.min(self.quota.rows(weight, now))
    }

    /// From now on this keeps it from reading; the time since it was noted last is
    /// its tenant's to know.
    pub(super) fn note_limit(&mut self, limit: Option<Limit>, now: Moment) {
        if let Some((by, since)) = self.limited.take() {
            let at = KeptAt::Reader(self.tag.flow.id);
            self.tag.tenant.limited(by, now.since(since), at);
        }
        self.limited = limit.map(|by| (by, now));
    }
}
