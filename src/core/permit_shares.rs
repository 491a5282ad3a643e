//! How the memory for rows in flight is shared: who may take how much now.
//!
//! Half of the pool is divided among the tenants by weight, and what a tenant gets
//! evenly among its *seats*: one for each of its pipelines that is to run, and one
//! more for the next to come. That much is each pipeline's own, whether it uses it
//! or not. Three eighths are common: whoever needs more than its own part takes from
//! there. The last eighth is kept for overdrafts (a row is taken whole, however
//! large) and for own parts that somebody else still holds.
//!
//! Rules:
//! - A tenant that has a most of its own takes no more than that; each of its
//!   pipelines may exceed it by one row that is larger than what is left. Half of it is
//!   divided evenly among its pipelines, as their own parts of it: one that is stuck
//!   leaves the others of the tenant theirs.
//! - A pipeline gets its own part, however many others are stuck with all they
//!   could take.
//! - The total is never exceeded by what is granted here.
//! - One row at a time may go alone, beside all that: it is larger than what its
//!   pipeline could take, now or ever. It counts for nobody, so that it takes
//!   nothing from the others, and comes on top of the total.
//! - An incarnation that has ended holds what its rows in flight still take, and
//!   has no seat.
//! - More seats make the own parts smaller. Who held more by then keeps it until
//!   its rows settle, which only delays whoever came after the seat that was kept
//!   free.

use std::collections::HashMap;
use std::sync::Arc;

/// This part of the pool is not lent: an eighth. With the default of 256 MiB it
/// holds 32 rows of 1 MiB that came on top.
const KEPT_PART: usize = 8;

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartyId(u64);

#[derive(Debug, Clone, Copy)]
struct Party {
    tenant: usize,
    used: usize,
    has_left: bool,
}

/// A tenant that is to have a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantPart {
    /// The tenant.
    pub name: Arc<str>,
    /// Its share of what is divided, relative to others.
    pub weight: u32,
    /// How many of its pipelines are to run.
    pub pipelines: usize,
    /// What all its pipelines together may take, in bytes; `None` is no limit.
    pub most: Option<usize>,
}

#[derive(Debug)]
struct Tenant {
    part: TenantPart,
    /// Its pipelines that take part.
    seated: usize,
    used: usize,
    /// The own part of each of its seats.
    own_part: usize,
    /// The same of what the tenant may take at most, if it may not take all.
    own_of_most: usize,
    /// Of what the tenant may take at most: what is used or kept for a pipeline.
    spoken_for: usize,
    /// What its incarnations that have ended still have.
    ended: usize,
    /// Those that take part, and those that have ended and are not forgotten.
    parties: usize,
    /// It is to have a part.
    is_expected: bool,
}

impl Tenant {
    const fn seats(&self) -> usize {
        let (seated, expected) = (self.seated, self.part.pipelines);
        if seated > expected { seated } else { expected }
    }

    const fn claim_of(&self, party: Party) -> usize {
        if party.has_left || party.used > self.own_of_most {
            party.used
        } else {
            self.own_of_most
        }
    }

    const fn is_unused(&self) -> bool {
        self.parties == 0 && !self.is_expected
    }

    const fn unexpected(name: Arc<str>) -> Self {
        Self {
            part: TenantPart::unexpected(name),
            seated: 0,
            used: 0,
            own_part: 0,
            own_of_most: 0,
            spoken_for: 0,
            ended: 0,
            parties: 0,
            is_expected: false,
        }
    }
}

/// A pool and what everybody has taken of it, in bytes.
#[derive(Debug)]
pub struct PermitShares {
    total: usize,
    /// The largest total there has been.
    most_total: usize,
    parties: HashMap<PartyId, Party>,
    last: u64,
    /// Each tenant in its place. Places of those that are gone are taken by others.
    tenants: Vec<Tenant>,
    used: usize,
    /// What is used or kept for somebody.
    spoken_for: usize,
    /// What the row that goes alone weighs; 0 when there is none.
    alone: usize,
}

impl PermitShares {
    /// A pool nobody has taken of.
    #[must_use]
    pub fn new(total: usize) -> Self {
        let mut shares = Self {
            total,
            most_total: total,
            parties: HashMap::new(),
            last: 0,
            tenants: Vec::new(),
            used: 0,
            spoken_for: 0,
            alone: 0,
        };
        shares.divide();
        shares
    }

    /// The pool has so many bytes from now on. With less than is in use nobody may
    /// take more until enough has come back.
    pub fn resize(&mut self, total: usize) {
        if self.total != total {
            self.total = total;
            self.most_total = self.most_total.max(total);
            self.divide();
        }
    }

    /// These tenants are to have parts, for so many pipelines; no other is expected.
    pub fn expect(&mut self, parts: &[TenantPart]) {
        for tenant in &mut self.tenants {
            let name = Arc::clone(&tenant.part.name);
            tenant.part = TenantPart::unexpected(name);
            tenant.is_expected = false;
        }
        for part in parts {
            let place = self.place_of(&part.name);
            if let Some(tenant) = self.tenants.get_mut(place) {
                tenant.part = part.clone();
                tenant.is_expected = true;
            }
        }
        self.divide();
    }

    /// A pipeline of a tenant takes part.
    pub fn join(&mut self, tenant: &Arc<str>) -> PartyId {
        self.last += 1;
        let id = PartyId(self.last);
        let party = Party {
            tenant: self.place_of(tenant),
            used: 0,
            has_left: false,
        };
        self.parties.insert(id, party);
        self.divide();
        id
    }

    /// Somebody takes nothing more; what it has is still in use.
    pub fn leave(&mut self, id: PartyId) {
        if let Some(party) = self.parties.get_mut(&id) {
            party.has_left = true;
            self.divide();
        }
    }

    /// Somebody has given everything back and is forgotten.
    pub fn remove(&mut self, id: PartyId) {
        if self.parties.remove(&id).is_some() {
            self.divide();
        }
    }

    /// Takes bytes, whether they are free or not: what was read must go somewhere.
    pub fn take(&mut self, id: PartyId, bytes: usize) {
        self.change(id, |used| used.saturating_add(bytes));
    }

    /// Gives bytes back.
    pub fn give_back(&mut self, id: PartyId, bytes: usize) {
        self.change(id, |used| used.saturating_sub(bytes));
    }

    /// A row of so many bytes goes alone, if no other does.
    pub const fn go_alone(&mut self, bytes: usize) -> bool {
        if self.alone > 0 {
            return false;
        }
        self.alone = bytes;
        true
    }

    /// The row that went alone is settled.
    pub const fn alone_is_over(&mut self) {
        self.alone = 0;
    }

    /// What the row that goes alone weighs, beside what is [`Self::used`].
    #[must_use]
    pub const fn alone(&self) -> usize {
        self.alone
    }

    /// What somebody may take now.
    #[must_use]
    pub fn free(&self, id: PartyId) -> usize {
        self.free_of_pool(id).min(self.free_of_tenant(id))
    }

    /// What is left of what the tenant of somebody may take: more may be taken by a
    /// row that is larger, as long as it is not 0.
    #[must_use]
    pub fn free_of_tenant(&self, id: PartyId) -> usize {
        let party = self.parties.get(&id).filter(|party| !party.has_left);
        let Some(tenant) = party.and_then(|party| self.tenants.get(party.tenant)) else {
            return 0;
        };
        let (Some(party), Some(most)) = (party, tenant.part.most) else {
            return usize::MAX;
        };
        let of_others = tenant.spoken_for - tenant.claim_of(*party);
        let with_common = most.saturating_sub(of_others + party.used);
        // More may be spoken for than there is, after overdrafts and new seats.
        let own = tenant.own_of_most.saturating_sub(party.used);
        with_common.max(own.min(most.saturating_sub(tenant.ended)))
    }

    /// What somebody may take now if it were for the pool alone.
    #[must_use]
    pub fn free_of_pool(&self, id: PartyId) -> usize {
        let Some(party) = self.parties.get(&id).filter(|party| !party.has_left) else {
            return 0;
        };
        let of_others = self.spoken_for - self.claim_of(*party);
        let lent = self.total - self.total / KEPT_PART;
        let with_common = lent.saturating_sub(of_others + party.used);
        // More may be spoken for than is lent, after overdrafts and new seats.
        let own = self.own_part(id).saturating_sub(party.used);
        with_common.max(own.min(self.total.saturating_sub(self.used)))
    }

    /// What there is.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.total
    }

    /// What may be in use: the largest total there has been, since what was asked
    /// for while there was more may come after the change.
    #[must_use]
    pub const fn most_in_use(&self) -> usize {
        self.most_total
    }

    /// What is in use.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.used
    }

    /// What the pipelines of a tenant have.
    #[must_use]
    pub fn used_by(&self, tenant: &str) -> usize {
        let mut known = self.tenants.iter();
        known
            .find(|known| *known.part.name == *tenant)
            .map_or(0, |known| known.used)
    }

    /// The part that is somebody's own.
    #[must_use]
    pub fn own_part(&self, id: PartyId) -> usize {
        let party = self.parties.get(&id);
        party.map_or(0, |party| self.own_part_of(*party))
    }

    fn own_part_of(&self, party: Party) -> usize {
        self.tenants
            .get(party.tenant)
            .map_or(0, |tenant| tenant.own_part)
    }

    fn place_of(&mut self, name: &Arc<str>) -> usize {
        let known = self.tenants.iter();
        if let Some(place) = known.into_iter().position(|one| one.part.name == *name) {
            return place;
        }
        let new = Tenant::unexpected(Arc::clone(name));
        if let Some(place) = self.tenants.iter().position(Tenant::is_unused) {
            self.tenants[place] = new;
            return place;
        }
        self.tenants.push(new);
        self.tenants.len() - 1
    }

    fn change(&mut self, id: PartyId, change: impl FnOnce(usize) -> usize) {
        let Some(party) = self.parties.get(&id).copied() else {
            return;
        };
        let changed = Party {
            used: change(party.used),
            ..party
        };
        self.used = self.used - party.used + changed.used;
        if let Some(tenant) = self.tenants.get_mut(party.tenant) {
            tenant.used = tenant.used - party.used + changed.used;
            let claims = (tenant.claim_of(party), tenant.claim_of(changed));
            tenant.spoken_for = tenant.spoken_for - claims.0 + claims.1;
            if party.has_left {
                tenant.ended = tenant.ended - party.used + changed.used;
            }
        }
        self.spoken_for = self.spoken_for - self.claim_of(party) + self.claim_of(changed);
        self.parties.insert(id, changed);
    }

    fn claim_of(&self, party: Party) -> usize {
        if party.has_left {
            party.used
        } else {
            party.used.max(self.own_part_of(party))
        }
    }

    /// Works everything out anew; called when somebody comes or goes.
    fn divide(&mut self) {
        for tenant in &mut self.tenants {
            (tenant.seated, tenant.used) = (0, 0);
            (tenant.parties, tenant.ended) = (0, 0);
        }
        for party in self.parties.values() {
            if let Some(tenant) = self.tenants.get_mut(party.tenant) {
                tenant.seated += usize::from(!party.has_left);
                tenant.used += party.used;
                tenant.parties += 1;
                tenant.ended += if party.has_left { party.used } else { 0 };
            }
        }
        let weight = |tenant: &Tenant| match tenant.seats() {
            0 => 0,
            _ => tenant.part.weight.max(1) as usize,
        };
        let all: usize = self.tenants.iter().map(weight).sum();
        let half = self.total / 2;
        for tenant in &mut self.tenants {
            let of_tenant = half * weight(tenant) / all.max(1);
            tenant.own_part = of_tenant / (tenant.seats() + 1);
            let most = tenant.part.most.unwrap_or_default();
            tenant.own_of_most = most / 2 / tenant.seats().max(1);
            tenant.spoken_for = tenant.own_of_most * (tenant.seats() - tenant.seated);
        }
        for party in self.parties.values() {
            if let Some(tenant) = self.tenants.get_mut(party.tenant) {
                tenant.spoken_for += tenant.claim_of(*party);
            }
        }
        self.used = self.parties.values().map(|party| party.used).sum();
        let claims: usize = self.parties.values().map(|one| self.claim_of(*one)).sum();
        let is_taken = |tenant: &&Tenant| tenant.seats() > 0;
        let kept = self.tenants.iter().filter(is_taken);
        let kept = kept.map(|tenant| tenant.own_part * (tenant.seats() + 1 - tenant.seated));
        self.spoken_for = claims + kept.sum::<usize>();
    }
}

impl TenantPart {
    const fn unexpected(name: Arc<str>) -> Self {
        Self {
            name,
            weight: 1,
            pipelines: 0,
            most: None,
        }
    }
}

#[cfg(test)]
mod tests;
