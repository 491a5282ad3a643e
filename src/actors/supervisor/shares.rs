//! This node's part of each shard it writes to: what others do the same with is in
//! `core::shares`.
//!
//! Nodes see each other in one database, the *coordination database*. With each of its
//! beats there this node says what it would send and hears what the others would; what
//! it is granted is written down there too. The budgets of its shards
//! ([`crate::core::budget`]) go by that. In the other databases it sees who lives that
//! is silent in the first one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use actix::{AsyncContext, Context, Handler};

use super::Supervisor;
use crate::actors::fault;
use crate::actors::messages::{PurgeVoid, SharesWritten};
use crate::actors::pipeline_slot::Run;
use crate::actors::stream_slot::StreamSlot;
use crate::core::budget::share::{HeldShare, Ratios};
use crate::core::dispatch::SharedBudget;
use crate::core::nodes::{BeatDone, NodeSeen};
use crate::core::ports::StoreError;
use crate::core::shard_map::ShardId;
use crate::core::shares::alone::{Alone, Neighbour};
use crate::core::shares::book::ShareBook;
use crate::core::shares::elsewhere::{Elsewhere, is_coordinated, note};
use crate::core::shares::missing::Missing;
use crate::core::shares::{ShardName, Written};
use crate::core::time::Moment;

/// What a write of shares may take; later its answer is not waited for.
const WRITTEN_WITHIN: std::time::Duration = std::time::Duration::from_secs(2);

/// The shares of this node.
pub(in crate::actors) struct NodeShares {
    book: ShareBook,
    missing: Missing,
    elsewhere: Elsewhere,
    /// Where nodes see each other; without any database there is no other node.
    coordination: Option<Arc<str>>,
    /// What each budget goes by.
    held: BTreeMap<ShardName, HeldShare>,
    /// Since the coordination database is away: the others in which this node's row has
    /// run all the time.
    lives_in: Option<BTreeSet<Arc<str>>>,
    /// What each other database said of who else is there.
    alone: Alone,
    /// Since when this node's row has run in each other database.
    row_since: BTreeMap<Arc<str>, i64>,
    /// The streams of pipelines that run here and may send nothing: since when.
    silent: BTreeMap<Arc<str>, Moment>,
    failed: bool,
}

impl NodeShares {
    pub(super) fn new(node: &Arc<str>, coordination: Option<&Arc<str>>, now: Moment) -> Self {
        Self {
            book: ShareBook::new(Arc::clone(node), now),
            missing: Missing::default(),
            elsewhere: Elsewhere::default(),
            coordination: coordination.cloned(),
            held: BTreeMap::new(),
            lives_in: None,
            alone: Alone::default(),
            row_since: BTreeMap::new(),
            silent: BTreeMap::new(),
            failed: false,
        }
    }

    /// Until when this node, which has no share, may go on as if it were alone: the
    /// coordination database is away, and as far as the others tell no node has a share
    /// of anything, and none is there for longer. (Or one process with two databases
    /// could not be started while the first is away.)
    fn is_alone_until(&self, now: Moment) -> Option<Moment> {
        let keeps = self
            .lives_in
            .as_ref()
            .is_some_and(|lives| !lives.is_empty());
        if keeps || !self.book.has_lapsed() {
            return None;
        }
        self.alone.until(now)
    }

    /// Whether it has, or gets, a share of this stream's shards: who has none takes none
    /// of the stream's pipelines. Who goes on without the coordination database has
    /// only what it kept.
    pub(in crate::actors) fn may_send_to(&self, stream: &str, now: Moment) -> bool {
        self.coordination.is_none()
            || self.book.may_send_to(stream)
            || self.is_alone_until(now).is_some()
    }

    /// The node's row runs in another database since then. If it had expired, others
    /// may have taken what the node kept.
    fn row_runs_since(&mut self, database: &Arc<str>, since: i64) {
        let before = self.row_since.insert(Arc::clone(database), since);
        if before.is_none_or(|before| before == since) {
            return;
        }
        match &mut self.lives_in {
            Some(lives) => {
                lives.remove(database);
            }
            None => self.book.keep_nothing(),
        }
    }

    pub(super) const fn has_lapsed(&self) -> bool {
        self.book.has_lapsed()
    }

    fn held_of(&self, shard: &ShardName, now: Moment) -> HeldShare {
        let alone = self.is_alone_until(now);
        alone.map_or_else(
            || self.book.held(shard),
            |until| HeldShare {
                share: Ratios::WHOLE,
                until: Some(until),
                afterwards: Ratios::NONE,
                is_shared: true,
            },
        )
    }

    /// A writer for a shard begins: its budget is this node's share.
    pub(in crate::actors) fn writes(
        &mut self,
        stream: &Arc<str>,
        shard: &ShardId,
        budget: &SharedBudget,
        now: Moment,
    ) {
        if self.coordination.is_none() {
            let mut budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
            budget.hold(HeldShare::WHOLE, now);
            return;
        }
        let name = ShardName {
            stream: Arc::clone(stream),
            shard: shard.clone(),
        };
        self.book.enter(&name, now);
        let held = self.held_of(&name, now);
        budget
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .hold(held, now);
        self.held.insert(name, held);
    }
}

impl Supervisor {
    fn is_coordination(&self, database: &Arc<str>) -> bool {
        self.shares.coordination.as_ref() == Some(database)
    }

    /// The coordination database stays what it was, unless it is not configured any
    /// more: then what was granted there ends.
    fn follow_coordination(&mut self, now: Moment) {
        let coordination = self.shares.coordination.clone();
        let others = self.databases.keys();
        let others = others.filter(|name| Some(*name) != coordination.as_ref());
        self.shares.alone.databases(others);
        let is_there = |name: &Arc<str>| self.databases.contains_key(name);
        if self.shares.coordination.as_ref().is_none_or(is_there) {
            return;
        }
        let chosen = self.settings.coordination();
        self.shares = NodeShares::new(&self.node, chosen, now);
        for (name, budget) in self.budgets.all() {
            self.shares.writes(&name.stream, &name.shard, budget, now);
        }
    }

    /// What this node says with a beat: JSON objects of its demand, and of what it may
    /// say of its shares.
    pub(super) fn notes_for_beat(&mut self, database: &Arc<str>) -> (String, String) {
        let nothing = "{}".to_owned();
        if !self.is_coordination(database) {
            let book = &self.shares.book;
            let is_coordinated = !book.has_lapsed() || book.keeps_something();
            return (nothing, note(is_coordinated));
        }
        self.measure_shards();
        (self.shares.book.say(), nothing)
    }

    /// What a beat said of the others.
    pub(super) fn heard_beat(
        &mut self,
        database: &Arc<str>,
        asked_at: Moment,
        done: &BeatDone,
        context: &Context<Self>,
    ) {
        let lives = |node: &&NodeSeen| !node.expires_in.is_zero();
        self.compare_coordination(database, done.nodes.iter().filter(lives));
        if !self.is_coordination(database) {
            let living: BTreeSet<&str> = done
                .nodes
                .iter()
                .filter(lives)
                .map(|one| &*one.node)
                .collect();
            let missing = &mut self.shares.missing;
            missing.heard(database, asked_at, |node| living.contains(node));
            let until = asked_at + self.settings.cluster.lease.saturating_sub(self.margin());
            let others = done.nodes.iter().filter(lives).map(|other| Neighbour {
                age: (other.runs_since, &*other.node),
                has_nothing: is_coordinated(&other.shares) == Some(false),
            });
            self.shares.row_runs_since(database, done.runs_since);
            let age = (done.runs_since, &*self.node);
            let alone = &mut self.shares.alone;
            // From the second beat on the others could see it.
            if done.beat >= 2 {
                alone.heard(database, until, age, others);
            } else {
                alone.heard_nothing(database);
            }
            self.forget_gone(context);
            return;
        }
        let now = self.clock.now();
        let until = asked_at + self.settings.cluster.lease.saturating_sub(self.margin());
        let others = done.nodes.iter().filter(lives);
        let others = others.map(|node| (&node.node, node.demand.as_str()));
        self.shares.book.row_runs_since(done.runs_since);
        self.shares.book.heard(until, others, now);
        self.shares.lives_in = None;
        self.share_budgets(context);
    }

    /// Warns of nodes that divide the shards in another database than this one.
    fn compare_coordination<'a>(
        &mut self,
        database: &Arc<str>,
        others: impl Iterator<Item = &'a NodeSeen>,
    ) {
        let divides = self.is_coordination(database);
        let notes = others.map(|other| (&other.node, other.shares.as_str()));
        let elsewhere = &mut self.shares.elsewhere;
        for node in elsewhere.heard(database, divides, notes) {
            tracing::warn!(
                %database, %node,
                "another node divides the shards in another database: they may be offered more than they take; \
                 name the same cluster.database on every node"
            );
        }
        let nodes = elsewhere.nodes(database).cloned().collect();
        self.board.set_other_budgets(database, nodes);
    }

    /// Gives back the shards that nobody here writes to any more, and measures what
    /// goes to the others.
    fn measure_shards(&mut self) {
        let now = self.clock.now();
        let written: BTreeSet<ShardName> = self.budgets.in_use().collect();
        let shares = &mut self.shares;
        let left: Vec<ShardName> = shares
            .book
            .shards()
            .filter(|name| !written.contains(name))
            .cloned()
            .collect();
        for name in &left {
            shares.book.leave(name);
        }
        let is_elsewhere = |database: &Arc<str>| shares.coordination.as_ref() != Some(database);
        let (mut streams, mut elsewhere) = (BTreeSet::new(), false);
        for (key, slot) in &self.pipelines {
            let is_read = matches!(slot.run, Run::Running { .. } | Run::Claiming);
            let stream = slot.stream_in_use().or(slot.stream.as_ref());
            let stream = stream.and_then(|stream| self.streams.get(stream));
            if let Some(stream) = stream.filter(|_| is_read) {
                streams.insert(Arc::clone(&stream.identity));
                elsewhere |= is_elsewhere(&key.database);
            }
        }
        shares.book.writes_to(&streams, elsewhere);
        for (name, budget) in self.budgets.all() {
            let budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
            let (held, factor) = (budget.held(now), budget.factor());
            let held = Ratios {
                records: held.records * factor,
                bytes: held.bytes * factor,
            };
            let book = &mut shares.book;
            book.counted(&name, budget.counted(now), budget.limits(), held, now);
        }
    }

    /// Writes down what is to be written down, and has the budgets go by what is this
    /// node's.
    pub(super) fn share_budgets(&mut self, context: &Context<Self>) {
        let now = self.clock.now();
        self.follow_coordination(now);
        self.shares.book.tick(now);
        self.show_coordination(now);
        self.keep_while_alive(now);
        self.write_shares(context);
        let mut raised = BTreeSet::new();
        for (name, budget) in self.budgets.all() {
            if self.shares.coordination.is_none() {
                break;
            }
            let held = self.shares.held_of(&name, now);
            let before = self.shares.held.insert(name.clone(), held);
            if before == Some(held) {
                continue;
            }
            let mut budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
            let had = budget.held(now);
            budget.hold(held, now);
            let has = budget.held(now);
            if has.records > had.records || has.bytes > had.bytes {
                raised.insert(name.stream);
            }
        }
        let book = &self.shares.book;
        self.shares
            .held
            .retain(|name, _| book.share(name).is_some());
        // Writers that wait for their budget look at it again.
        for slot in self.streams.values() {
            if let Some(router) = &slot.router.address
                && raised.contains(&slot.identity)
            {
                router.try_send(PurgeVoid).ok();
            }
        }
    }

    /// Pipelines that stand still here for want of a share are given back when that has
    /// lasted a lease: another node may have one.
    pub(super) fn give_back_silent(&mut self) {
        if self.is_draining() {
            return;
        }
        let (now, lease) = (self.clock.now(), self.settings.cluster.lease);
        let until = now + self.settings.limits.drain_grace;
        let mut silent = BTreeMap::new();
        // As a rule none is; pipelines are many.
        let may_send = |stream: &StreamSlot| self.shares.may_send_to(&stream.identity, now);
        if self.streams.values().all(may_send) {
            self.shares.silent = silent;
            return;
        }
        for (key, slot) in &mut self.pipelines {
            let stream = slot.stream_in_use();
            let Some(stream) = stream.and_then(|stream| self.streams.get(stream)) else {
                continue;
            };
            if self.shares.may_send_to(&stream.identity, now) {
                continue;
            }
            let since = self.shares.silent.get(&stream.identity).copied();
            let since = since.unwrap_or(now);
            silent.insert(Arc::clone(&stream.identity), since);
            if now.since(since) >= lease && slot.drain.is_none() && slot.drain(until) {
                tracing::warn!(pipeline = %key, "no share of the stream's shards is left here; the pipeline is given back");
            }
        }
        self.shares.silent = silent;
    }

    fn show_coordination(&self, now: Moment) {
        let name = self.shares.coordination.as_ref();
        let slot = name.and_then(|name| Some((name, self.databases.get(name)?)));
        if let Some((name, slot)) = slot
            && let Some(at) = slot.beats.renewed_at
        {
            self.metrics.coordination_age(name, now.since(at));
        }
    }

    /// What is kept without the coordination database holds as long as the node's row
    /// has not expired in some other database either: then the others can tell.
    fn keep_while_alive(&mut self, now: Moment) {
        if !self.shares.book.has_lapsed() {
            return;
        }
        let runs_for = self.settings.cluster.lease.saturating_sub(self.margin());
        let is_alive = |name: &Arc<str>| {
            let renewed_at = self
                .databases
                .get(name)
                .and_then(|slot| slot.beats.renewed_at);
            renewed_at.is_some_and(|at| now < at + runs_for)
        };
        let coordination = self.shares.coordination.as_ref();
        let others = self
            .databases
            .keys()
            .filter(|name| Some(*name) != coordination);
        let alive: BTreeSet<Arc<str>> = others.filter(|name| is_alive(name)).cloned().collect();
        let still = match &self.shares.lives_in {
            Some(before) => before.intersection(&alive).cloned().collect(),
            None => alive,
        };
        if still.is_empty() {
            self.shares.book.keep_nothing();
        }
        self.shares.lives_in = Some(still);
    }

    fn write_shares(&mut self, context: &Context<Self>) {
        let now = self.clock.now();
        let store = self.shares.coordination.as_ref();
        let store = store.and_then(|name| self.databases.get(name));
        let Some(store) = store.map(|slot| Arc::clone(&slot.database.store)) else {
            return;
        };
        let Some((number, writes)) = self.shares.book.next_write(now) else {
            return;
        };
        let node = Arc::clone(&self.node);
        let supervisor = context.address();
        tokio::spawn(async move {
            let write = store.write_shares(&node, number, &writes);
            let written = tokio::time::timeout(WRITTEN_WITHIN, write).await;
            let result = written.unwrap_or_else(|_| {
                let reason = format!("no answer within {WRITTEN_WITHIN:?}");
                Err(StoreError::Unavailable(reason))
            });
            // Only a stopped supervisor does not hear it.
            supervisor.try_send(SharesWritten { number, result }).ok();
        });
    }

    /// Those that are in no database any more keep nothing.
    fn forget_gone(&mut self, context: &Context<Self>) {
        let coordination = self.shares.coordination.as_ref();
        let others = self
            .databases
            .keys()
            .filter(|name| Some(*name) != coordination);
        let others: Vec<Arc<str>> = others.cloned().collect();
        let gone = self.shares.missing.gone(&others);
        let store = coordination.and_then(|name| self.databases.get(name));
        let Some(store) = store.map(|slot| Arc::clone(&slot.database.store)) else {
            return;
        };
        if gone.is_empty() {
            return;
        }
        tracing::info!(nodes = ?gone, "nodes are gone from every database: the shares they kept are free");
        let supervisor = context.address();
        tokio::spawn(async move {
            let forgotten = store.forget_shares(&gone);
            let forgotten = tokio::time::timeout(WRITTEN_WITHIN, forgotten).await;
            if !matches!(forgotten, Ok(Ok(()))) && supervisor.connected() {
                // Whoever misses the share looks for them again.
                tracing::debug!("the shares of nodes that are gone were not freed");
            }
        });
    }

    fn shares_written(&mut self, message: SharesWritten, context: &Context<Self>) {
        let now = self.clock.now();
        let SharesWritten { number, result } = message;
        let (granted, error): (Option<Written>, _) = match result {
            Ok(written) => (Some(written), None),
            Err(error) => (None, Some(error)),
        };
        let shares = &mut self.shares;
        let had_failed = std::mem::replace(&mut shares.failed, error.is_some());
        match error {
            Some(error) if !had_failed => {
                tracing::warn!(%error, "shares of shards cannot be written down; trying again");
            }
            None if had_failed => tracing::info!("shares of shards can be written down again"),
            Some(_) | None => {}
        }
        let of_shards = granted.as_ref().map(|written| written.granted.as_slice());
        shares.book.written(number, of_shards, now);
        if let Some(written) = &granted {
            shares.missing.look_for(&written.keepers, now);
        }
        self.share_budgets(context);
    }
}

impl Handler<SharesWritten> for Supervisor {
    type Result = ();

    fn handle(&mut self, message: SharesWritten, context: &mut Context<Self>) {
        fault::point("supervisor.SharesWritten");
        self.shares_written(message, context);
        self.forget_gone(context);
    }
}
