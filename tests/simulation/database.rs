//! A small PostgreSQL: transactions, snapshots, leases, positions, crashes.
//!
//! What is true of the real one and matters to a relay:
//! - ids are handed out at insert, transaction ids at the first write (or before:
//!   a publisher may have written elsewhere), rows appear at commit;
//! - a snapshot's `xmax` is one past the highest transaction that has *ended*;
//! - publishers' commits wait for the log, saves of positions do not: a crash may
//!   take the last of them back, and with them transaction ids nobody flushed;
//! - a crash begins another life of the server; prepared transactions survive it;
//! - letters are written with the position and are lost with it, what a person or
//!   a relay says of letters and replays waits for the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate::core::page::RowPage;
use tidegate::core::ports::{
    Epoch, Opened, Outbox, OutboxId, PageRequest, ProbeReport, ProbeTarget, WindowRows,
};
use tidegate::core::position::{Position, RowId};
use tidegate::core::row::OutboxRow;
use tidegate::core::sabotage::{self, Bug};
use tidegate::core::shares::model::ShareTable;
use tidegate::core::snapshot::{Snapshot, Xid};
use tidegate::core::time::Moment;
use tidegate::core::timestamp::Timestamp;

use crate::dice::Dice;

mod leases;
pub(crate) mod letters;
pub(crate) mod nodes;
pub(crate) mod replays;

use letters::{AllLetters, Before};
use replays::Replay;

/// Why a row can never be sent, as far as a publisher can do it wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    KeyEmpty,
    KeyTooLong,
    TooLarge,
    /// The service does not take it, until its defect is cured.
    Rejected,
}

#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) outbox: OutboxId,
    pub(crate) id: RowId,
    pub(crate) xid: Xid,
    pub(crate) key: String,
    pub(crate) filler: usize,
    pub(crate) defect: Option<Defect>,
    pub(crate) inserted_at: Moment,
}

#[derive(Debug, Default)]
pub(crate) struct Transaction {
    pub(crate) xid: Option<Xid>,
    pub(crate) locks: BTreeSet<(OutboxId, String)>,
    pub(crate) rows: Vec<Row>,
    /// `PREPARE TRANSACTION` was said: only its end is left.
    pub(crate) is_prepared: bool,
}

#[derive(Debug, Clone)]
struct Lease {
    owner: String,
    epoch: Epoch,
    expires_at: Moment,
    taken_at: Moment,
}

#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) epoch: Epoch,
    pub(crate) position: Position,
    life: u64,
    save_number: u64,
}

struct Unflushed {
    pipeline: String,
    before: Stored,
    letters: Vec<Before>,
    next_xid: Xid,
}

pub(crate) struct Database {
    pub(crate) outboxes: Vec<Outbox>,
    next_xid: Xid,
    next_id: RowId,
    highest_ended: Xid,
    running: BTreeSet<Xid>,
    pub(crate) open: Vec<Transaction>,
    rows: BTreeMap<(OutboxId, RowId), Row>,
    by_xid: BTreeSet<(OutboxId, Xid, RowId)>,
    leases: BTreeMap<String, Lease>,
    nodes: BTreeMap<Arc<str>, nodes::NodeRow>,
    shares: ShareTable,
    pub(crate) positions: BTreeMap<String, Stored>,
    pub(crate) versions: BTreeMap<String, i64>,
    pub(crate) outboxes_of: BTreeMap<String, OutboxId>,
    pub(crate) letters: AllLetters,
    pub(crate) replays: Vec<Replay>,
    pub(crate) life: u64,
    flushed_xid: Xid,
    unflushed: Vec<Unflushed>,
    pub(crate) down_until: Option<Moment>,
}

impl Database {
    pub(crate) fn new(outboxes: Vec<Outbox>, dice: &mut Dice) -> Self {
        // Transaction ids far beyond 32 bits now and then.
        let next_xid = *dice.pick(&[3, 800, 4_294_967_290, 50_000_000_000]);
        Self {
            outboxes,
            next_xid,
            next_id: 1,
            highest_ended: next_xid - 1,
            running: BTreeSet::new(),
            open: Vec::new(),
            rows: BTreeMap::new(),
            by_xid: BTreeSet::new(),
            leases: BTreeMap::new(),
            nodes: BTreeMap::new(),
            shares: ShareTable::default(),
            positions: BTreeMap::new(),
            versions: BTreeMap::new(),
            outboxes_of: BTreeMap::new(),
            letters: AllLetters::default(),
            replays: Vec::new(),
            life: 1,
            flushed_xid: next_xid,
            unflushed: Vec::new(),
            down_until: None,
        }
    }

    // === Transactions ===

    fn take_xid(&mut self) -> Xid {
        let xid = self.next_xid;
        self.next_xid += 1;
        self.running.insert(xid);
        xid
    }

    fn ended(&mut self, xid: Xid) {
        self.running.remove(&xid);
        self.highest_ended = self.highest_ended.max(xid);
    }

    /// A transaction that waits for the log.
    pub(crate) fn commits(&mut self) {
        let xid = self.take_xid();
        self.ended(xid);
        self.flush();
    }

    fn flush(&mut self) {
        self.flushed_xid = self.next_xid;
        self.unflushed.clear();
    }

    pub(crate) fn begin(&mut self, with_xid: bool) {
        let xid = with_xid.then(|| self.take_xid());
        self.open.push(Transaction {
            xid,
            ..Transaction::default()
        });
    }

    /// Locks a key's row for a transaction, unless another one has it.
    pub(crate) fn lock(&mut self, place: usize, outbox: OutboxId, key: &str) -> bool {
        let lock = (outbox, key.to_owned());
        let is_taken = self
            .open
            .iter()
            .enumerate()
            .any(|(other, open)| other != place && open.locks.contains(&lock));
        if !is_taken {
            self.open[place].locks.insert(lock);
        }
        !is_taken
    }

    pub(crate) fn insert(
        &mut self,
        place: usize,
        outbox: OutboxId,
        key: &str,
        filler: usize,
        defect: Option<Defect>,
        now: Moment,
    ) {
        let xid = match self.open[place].xid {
            Some(xid) => xid,
            None => self.take_xid(),
        };
        let id = self.next_id;
        self.next_id += 1;
        let open = &mut self.open[place];
        open.xid = Some(xid);
        open.rows.push(Row {
            outbox,
            id,
            xid,
            key: key.to_owned(),
            filler,
            defect,
            inserted_at: now,
        });
    }

    /// Prepares a transaction for a commit in two phases.
    pub(crate) fn prepare(&mut self, place: usize) {
        if self.open[place].xid.is_some() {
            self.open[place].is_prepared = true;
            self.flush();
        }
    }

    /// Ends a transaction; answers the rows that it committed.
    pub(crate) fn end(&mut self, place: usize, commit: bool) -> Vec<Row> {
        let open = self.open.remove(place);
        let Some(xid) = open.xid else {
            return Vec::new();
        };
        self.ended(xid);
        if !commit {
            return Vec::new();
        }
        for row in &open.rows {
            self.by_xid.insert((row.outbox, row.xid, row.id));
            self.rows.insert((row.outbox, row.id), row.clone());
        }
        self.flush();
        open.rows
    }

    // === Failure ===

    /// The server dies and recovers: what was not flushed may be gone.
    pub(crate) fn crash(&mut self, dice: &mut Dice) -> usize {
        self.open.retain(|open| open.is_prepared);
        self.running = self.open.iter().filter_map(|open| open.xid).collect();
        let all = self.unflushed.len();
        let lost = if dice.chance(0.5) {
            all
        } else {
            dice.below(all + 1)
        };
        for _ in 0..lost {
            if let Some(write) = self.unflushed.pop() {
                // An epoch taken since then was flushed, and the write before it.
                self.letters.take_back(&write.pipeline, write.letters);
                self.positions.insert(write.pipeline, write.before);
            }
        }
        let kept = self
            .unflushed
            .last()
            .map_or(self.flushed_xid, |write| write.next_xid);
        let least = kept.max(self.flushed_xid);
        self.next_xid = if dice.chance(0.5) {
            least
        } else {
            dice.range(least, self.next_xid)
        };
        self.highest_ended = self.next_xid - 1;
        self.unflushed.clear();
        self.flushed_xid = self.next_xid;
        self.life += 1;
        lost
    }

    /// The log writer comes round.
    pub(crate) fn flush_in_background(&mut self) {
        self.flush();
    }

    // === Reading ===

    pub(crate) fn snapshot(&self) -> Snapshot {
        let xmax = self.highest_ended + 1;
        let xip: Vec<Xid> = self.running.range(..xmax).copied().collect();
        let xmin = xip.first().copied().unwrap_or(xmax);
        Snapshot::new(xmin, xmax, xip).expect("well formed")
    }

    fn between(&self, outbox: OutboxId, from: &Snapshot, to: &Snapshot) -> Vec<Row> {
        // After a crash time may run backwards.
        let end = to.xmax().max(from.xmax());
        let fresh = (outbox, from.xmax(), RowId::MIN)..(outbox, end, RowId::MIN);
        let late = from.in_progress().iter().flat_map(|xid| {
            self.by_xid
                .range((outbox, *xid, RowId::MIN)..=(outbox, *xid, RowId::MAX))
        });
        let mut ids: Vec<RowId> = self
            .by_xid
            .range(fresh)
            .chain(late)
            .filter(|(_, xid, _)| to.sees(*xid))
            .map(|(_, _, id)| *id)
            .collect();
        if !sabotage::is(Bug::ReadByTransaction) {
            ids.sort_unstable();
        }
        ids.into_iter()
            .map(|id| self.rows[&(outbox, id)].clone())
            .collect()
    }

    fn window(
        &self,
        outbox: OutboxId,
        from: &Snapshot,
        to: &Snapshot,
        page: u32,
        now: Moment,
    ) -> WindowRows {
        let rows = self.between(outbox, from, to);
        if rows.len() <= page as usize {
            return WindowRows::Whole(rows.iter().map(|row| read(row, now)).collect());
        }
        let fresh = rows.iter().filter(|row| row.xid >= from.xmax());
        let (first, last) = (rows[0].id, rows[rows.len() - 1].id);
        WindowRows::Bounds {
            read: RowPage::default(),
            first,
            first_fresh: fresh.map(|row| row.id).min().unwrap_or(last),
            last,
        }
    }

    pub(crate) fn open_window(
        &self,
        outbox: OutboxId,
        seen: &Snapshot,
        page: u32,
        now: Moment,
    ) -> Opened {
        let snapshot = self.snapshot();
        let rows = self.window(outbox, seen, &snapshot, page, now);
        Opened { snapshot, rows }
    }

    pub(crate) fn reopen_window(
        &self,
        outbox: OutboxId,
        from: &Snapshot,
        to: &Snapshot,
        page: u32,
        now: Moment,
    ) -> WindowRows {
        self.window(outbox, from, to, page, now)
    }

    pub(crate) fn read_page(&self, request: &PageRequest, now: Moment) -> Vec<OutboxRow> {
        let rows = self.between(request.outbox, &request.from, &request.to);
        let wanted = |row: &&Row| {
            let is_fresh = row.xid >= request.from.xmax();
            row.id > request.after
                && row.id <= request.last
                && (!is_fresh || row.id >= request.first_fresh)
        };
        rows.iter()
            .filter(wanted)
            .take(request.bound.rows as usize)
            .map(|row| read(row, now))
            .collect()
    }

    pub(crate) fn read_rows(&self, outbox: OutboxId, ids: &[RowId], now: Moment) -> Vec<OutboxRow> {
        let found = ids.iter().filter_map(|id| self.rows.get(&(outbox, *id)));
        found.map(|row| read(row, now)).collect()
    }

    pub(crate) fn is_poison(&self, outbox: OutboxId, id: RowId) -> bool {
        let row = self.rows.get(&(outbox, id));
        row.is_some_and(|row| row.defect.is_some())
    }

    /// Whether the service does not take a row.
    pub(crate) fn is_refused(&self, outbox: OutboxId, id: RowId) -> bool {
        let row = self.rows.get(&(outbox, id));
        row.is_some_and(|row| row.defect == Some(Defect::Rejected))
    }

    /// Whether a row is visible in a snapshot.
    pub(crate) fn sees(&self, snapshot: &Snapshot, outbox: OutboxId, id: RowId) -> bool {
        let row = self.rows.get(&(outbox, id));
        row.is_some_and(|row| snapshot.sees(row.xid))
    }

    pub(crate) fn probe(&self, targets: &[ProbeTarget]) -> ProbeReport {
        let snapshot = self.snapshot();
        let has_news = |target: &ProbeTarget| {
            !self
                .between(target.outbox, &target.seen, &snapshot)
                .is_empty()
        };
        ProbeReport {
            news: targets.iter().map(has_news).collect(),
            snapshot,
            looked: true,
        }
    }

    pub(crate) fn unseen(&self, outbox: OutboxId, seen: &Snapshot) -> usize {
        self.between(outbox, seen, &self.snapshot()).len()
    }
}

fn read(row: &Row, now: Moment) -> OutboxRow {
    OutboxRow {
        id: row.id,
        dedup_key: Some(row.key.clone()),
        payload: format!("\"{}\"", "x".repeat(row.filler)),
        headers: "{}".to_owned(),
        created_at: Timestamp::from_unix_micros(1_767_225_600_000_000),
        age: now.since(row.inserted_at),
    }
}
