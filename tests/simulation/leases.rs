//! Leases and positions: the rules of `postgres::lease` and `postgres::position`.

use std::time::Duration;

use tidegate::core::dead_letter::DeadLetter;
use tidegate::core::nodes::Renewal;
use tidegate::core::ports::{Claim, Epoch, Fenced, PipelineName, StoreError};
use tidegate::core::position::Position;
use tidegate::core::sabotage::{self, Bug};
use tidegate::core::time::Moment;

use super::{Database, Lease, Stored, Unflushed};

/// As `postgres/position.rs` has it.
const NUMBERS_LOST_AT_MOST: u64 = 1_000_000;

impl Database {
    pub(crate) fn claim(
        &mut self,
        pipeline: &str,
        version: Option<i64>,
        outbox: &str,
        node: &str,
        lease: Duration,
        now: Moment,
    ) -> Result<Claim, StoreError> {
        let Some(outbox) = self
            .outboxes
            .iter()
            .find(|known| *known.name == *outbox)
            .cloned()
        else {
            return Err(StoreError::Refused(format!("no outbox {outbox}")));
        };
        if version.is_some() && version != self.versions.get(pipeline).copied() {
            return Err(StoreError::Refused(
                "another version is in force".to_owned(),
            ));
        }
        if let Some(held) = self.leases.get(pipeline)
            && held.owner != node
            && held.expires_at > now
        {
            return Ok(Claim::Held {
                owner: held.owner.clone(),
                expires_in: held.expires_at.since(now),
            });
        }
        let xid = self.take_xid();
        let life = self.life;
        let epoch = Epoch(self.leases.get(pipeline).map_or(1, |held| held.epoch.0 + 1));
        let taken = self
            .positions
            .entry(pipeline.to_owned())
            .or_insert_with(|| Stored {
                epoch,
                position: Position::start(),
                life,
                save_number: 0,
            });
        if taken.life != life && !sabotage::is(Bug::NumbersAgainAfterCrash) {
            taken.position.last_number.0 += NUMBERS_LOST_AT_MOST;
        }
        taken.life = life;
        taken.epoch = epoch;
        taken.save_number = 0;
        let position = taken.position.clone();
        let had = self.leases.get(pipeline).filter(|held| held.owner == node);
        let taken_at = had.map_or(now, |held| held.taken_at);
        self.leases.insert(
            pipeline.to_owned(),
            Lease {
                owner: node.to_owned(),
                epoch,
                expires_at: now + lease,
                taken_at,
            },
        );
        self.ended(xid);
        self.flush();
        if position.head().xmax() > self.highest_ended + 1 {
            return Err(StoreError::Refused(
                "the position lies in the future".to_owned(),
            ));
        }
        Ok(Claim::Granted {
            epoch,
            position,
            outbox,
        })
    }

    /// Who has a pipeline's lease, if it runs.
    pub(crate) fn owner(&self, pipeline: &str, now: Moment) -> Option<&str> {
        let lease = self.leases.get(pipeline);
        let lease = lease.filter(|lease| lease.expires_at > now && !lease.owner.is_empty());
        lease.map(|lease| &*lease.owner)
    }

    pub(crate) fn renew(
        &mut self,
        node: &str,
        held: &[(PipelineName, Epoch)],
        lease: Duration,
        now: Moment,
    ) -> Vec<Renewal> {
        let xid = self.take_xid();
        self.ended(xid);
        let renew = |(pipeline, epoch): &(PipelineName, Epoch)| {
            let of_this_life = self
                .positions
                .get(&**pipeline)
                .is_some_and(|stored| stored.life == self.life);
            match self.leases.get_mut(&**pipeline) {
                Some(row) if of_this_life && row.owner == node && row.epoch == *epoch => {
                    row.expires_at = now + lease;
                    Renewal::Renewed
                }
                Some(_) | None => Renewal::Lost,
            }
        };
        held.iter().map(renew).collect()
    }

    pub(crate) fn release(&mut self, pipeline: &str, node: &str, epoch: Epoch) {
        if let Some(row) = self.leases.get_mut(pipeline)
            && row.owner == node
            && row.epoch == epoch
        {
            row.owner.clear();
            row.expires_at = Moment::ORIGIN;
        }
    }

    pub(crate) fn save(
        &mut self,
        pipeline: &str,
        epoch: Epoch,
        position: &Position,
        letters: &[DeadLetter],
        number: u64,
    ) -> Fenced {
        let life = self.life;
        let next_xid = self.next_xid;
        let Some(stored) = self.positions.get_mut(pipeline) else {
            return Fenced::Stale;
        };
        let is_old = stored.epoch != epoch || stored.save_number >= number;
        if (is_old && !sabotage::is(Bug::SaveWithoutEpoch))
            || (stored.life != life && !sabotage::is(Bug::SaveAcrossCrash))
        {
            return Fenced::Stale;
        }
        let before = stored.clone();
        stored.position = position.clone();
        stored.save_number = number;
        let letters = self.park(pipeline, letters);
        self.unflushed.push(Unflushed {
            pipeline: pipeline.to_owned(),
            before,
            letters,
            next_xid: next_xid + 1,
        });
        let xid = self.take_xid();
        self.ended(xid);
        Fenced::Written
    }
}
