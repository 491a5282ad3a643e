//! Nodes with books on a table in memory, with answers that come late or never, nodes
//! that die, freeze and are cut off: what they may use never exceeds a shard.

use proptest::prelude::*;

use super::super::super::invariants;
use super::super::model::ShareTable;
use super::*;

const LEASE: Duration = Duration::from_secs(4);
const MARGIN: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(50);

fn shard() -> ShardName {
    ShardName {
        stream: "s".into(),
        shard: ShardId::from("shardId-000000000000"),
    }
}

use super::super::super::shard_map::ShardId;

/// What is on its way: of which process, when it is done at the database, when
/// the answer is there (`None`: never).
struct Call {
    process: usize,
    at: Moment,
    answer_at: Option<Moment>,
    what: What,
}

enum What {
    Beat {
        asked_at: Moment,
        demand: String,
        answer: Vec<(Arc<str>, String)>,
    },
    Write {
        number: i64,
        writes: Vec<ShareWrite>,
        granted: Option<Vec<Granted>>,
    },
}

struct Process {
    book: ShareBook,
    /// What its writer goes by: a frozen process does not change it.
    budget: HeldShare,
    wish: Wish,
    lives: bool,
    frozen_until: Moment,
    cut_until: Moment,
    beat_at: Moment,
    beating: bool,
}

/// The database of the nodes, and the nodes.
struct Cluster {
    now: Moment,
    table: ShareTable,
    rows: BTreeMap<Arc<str>, (Moment, String)>,
    processes: Vec<Process>,
    calls: Vec<Call>,
    most_used: Parts,
    writes: usize,
}

impl Cluster {
    fn new() -> Self {
        Self {
            now: Moment::from_origin(Duration::from_secs(1)),
            table: ShareTable::default(),
            rows: BTreeMap::new(),
            processes: Vec::new(),
            calls: Vec::new(),
            most_used: 0,
            writes: 0,
        }
    }

    fn join(&mut self, wish: Wish) -> usize {
        let name: Arc<str> = format!("n{}", self.processes.len()).into();
        let mut book = ShareBook::new(name, self.now);
        book.enter(&shard(), self.now);
        self.processes.push(Process {
            book,
            budget: HeldShare::NONE,
            wish,
            lives: true,
            frozen_until: self.now,
            cut_until: self.now,
            beat_at: self.now,
            beating: false,
        });
        self.processes.len() - 1
    }

    /// What all processes may use now.
    #[expect(clippy::cast_possible_truncation, reason = "0 to WHOLE")]
    fn used(&self) -> Parts {
        let of = |process: &Process| {
            let budget = process.budget;
            let has_run_out = budget.until.is_some_and(|until| self.now >= until);
            let held = if has_run_out {
                budget.share.records.min(budget.afterwards.records)
            } else {
                budget.share.records
            };
            (held * f64::from(WHOLE)).round() as Parts
        };
        self.processes.iter().filter(|one| one.lives).map(of).sum()
    }

    fn share_of(&self, process: usize) -> Parts {
        self.processes[process]
            .book
            .share(&shard())
            .map_or(0, |(_, share)| share.records)
    }

    /// One step of time; `chance` gives numbers below its argument.
    fn step(&mut self, chance: &mut impl FnMut(u64) -> u64) {
        self.now = self.now + STEP;
        self.arrive();
        for place in 0..self.processes.len() {
            self.act(place, chance);
        }
        self.most_used = self.most_used.max(self.used());
    }

    fn arrive(&mut self) {
        let now = self.now;
        let lives = |rows: &BTreeMap<Arc<str>, (Moment, String)>, node: &str| {
            rows.get(node).is_some_and(|(until, _)| now < *until)
        };
        for call in &mut self.calls {
            let node = Arc::clone(self.processes[call.process].book.node());
            if call.at > now {
                continue;
            }
            match &mut call.what {
                What::Beat { demand, answer, .. } if answer.is_empty() => {
                    self.rows
                        .insert(Arc::clone(&node), (now + LEASE, demand.clone()));
                    let others = self.rows.iter().filter(|(_, (until, _))| now < *until);
                    *answer = others
                        .map(|(other, (_, demand))| (Arc::clone(other), demand.clone()))
                        .collect();
                }
                What::Write {
                    number,
                    writes,
                    granted,
                } if granted.is_none() => {
                    let rows = &self.rows;
                    let written = self
                        .table
                        .write(&node, *number, writes, |node| lives(rows, node));
                    *granted = Some(written.granted);
                    self.writes += 1;
                }
                What::Beat { .. } | What::Write { .. } => {}
            }
        }
    }

    fn act(&mut self, place: usize, chance: &mut impl FnMut(u64) -> u64) {
        let now = self.now;
        let process = &mut self.processes[place];
        if !process.lives || now < process.frozen_until {
            return;
        }
        let mut answered = Vec::new();
        self.calls.retain_mut(|call| {
            let is_there = call.process == place && call.answer_at.is_some_and(|at| at <= now);
            if is_there {
                answered.push(std::mem::replace(
                    &mut call.what,
                    What::Write {
                        number: 0,
                        writes: Vec::new(),
                        granted: None,
                    },
                ));
            }
            !is_there
        });
        for what in answered {
            match what {
                What::Beat {
                    asked_at, answer, ..
                } => {
                    process.beating = false;
                    let own = Arc::clone(process.book.node());
                    let others = answer.iter().filter(|(node, _)| *node != own);
                    let others = others.map(|(node, text)| (node, text.as_str()));
                    process.book.heard(asked_at + (LEASE - MARGIN), others, now);
                }
                What::Write {
                    number, granted, ..
                } => {
                    process.book.written(number, granted.as_deref(), now);
                }
            }
        }
        process.book.tick(now);
        let is_cut = now < process.cut_until;
        let mut delay = |most: u64| STEP * u32::try_from(chance(most)).expect("few");
        if now >= process.beat_at {
            // An unanswered beat is waited for no longer.
            process.beat_at = now + Duration::from_secs(1);
            process.book.entries.values_mut().for_each(|entry| {
                entry.meter = Meter::wishing(process.wish);
            });
            let at = now + delay(6);
            let call = Call {
                process: place,
                at: if is_cut {
                    now + Duration::from_secs(1_000_000)
                } else {
                    at
                },
                answer_at: (!is_cut).then(|| at + delay(6)),
                what: What::Beat {
                    asked_at: now,
                    demand: process.book.say(),
                    answer: Vec::new(),
                },
            };
            self.calls.push(call);
        }
        if let Some((number, writes)) = process.book.next_write(now) {
            let at = now + delay(10);
            let is_lost = is_cut || chance(10) == 0;
            let call = Call {
                process: place,
                // It may be done all the same, and late.
                at: at
                    + if is_lost {
                        Duration::from_secs(chance(8))
                    } else {
                        Duration::ZERO
                    },
                answer_at: (!is_lost).then(|| at + STEP * u32::try_from(chance(6)).expect("few")),
                what: What::Write {
                    number,
                    writes,
                    granted: None,
                },
            };
            self.calls.push(call);
            if is_lost {
                process.book.written(number, None, now);
            }
        }
        process.budget = process.book.held(&shard());
    }

    fn pass(&mut self, seconds: u32, chance: &mut impl FnMut(u64) -> u64) {
        for _ in 0..seconds * 20 {
            self.step(chance);
        }
    }
}

fn quick(_: u64) -> u64 {
    1
}

#[test]
fn who_is_alone_has_all_of_it() {
    let mut cluster = Cluster::new();
    cluster.join(Wish::default());
    cluster.pass(2, &mut quick);
    assert_eq!(cluster.share_of(0), WHOLE);
    let writes = cluster.writes;
    cluster.pass(20, &mut quick);
    assert_eq!(
        cluster.writes, writes,
        "nothing changed, nothing is written"
    );
}

#[test]
fn a_node_that_comes_has_its_share_within_two_beats() {
    let mut cluster = Cluster::new();
    cluster.join(Wish::ALL);
    cluster.pass(5, &mut quick);
    cluster.join(Wish::ALL);
    cluster.pass(2, &mut quick);
    assert_eq!(
        (cluster.share_of(0), cluster.share_of(1)),
        (WHOLE / 2, WHOLE / 2)
    );
    assert!(cluster.most_used <= WHOLE);
}

#[test]
fn the_share_of_a_dead_node_is_used_when_its_row_has_expired() {
    let mut cluster = Cluster::new();
    cluster.join(Wish::ALL);
    cluster.join(Wish::ALL);
    cluster.pass(5, &mut quick);
    cluster.processes[1].lives = false;
    cluster.pass(3, &mut quick);
    assert_eq!(cluster.share_of(0), WHOLE / 2);
    cluster.pass(4, &mut quick);
    assert_eq!(cluster.share_of(0), WHOLE);
}

#[test]
fn who_kept_nothing_may_not_send() {
    let mut cluster = Cluster::new();
    cluster.join(Wish::ALL);
    cluster.join(Wish::ALL);
    assert!(!cluster.processes[1].book.may_send_to("s"));
    let written = BTreeSet::from(["s".into()]);
    cluster.processes[0].book.writes_to(&written, true);
    cluster.processes[1].book.writes_to(&written, false);
    cluster.pass(5, &mut quick);
    for process in &mut cluster.processes {
        assert!(process.book.may_send_to("another"));
        process.cut_until = cluster.now + Duration::from_secs(30);
    }
    cluster.pass(10, &mut quick);
    let may = |place: usize, stream| cluster.processes[place].book.may_send_to(stream);
    assert!(may(0, "s") && !may(0, "another"));
    assert!(!may(1, "s") && !may(1, "another"));
}

#[test]
fn a_row_that_had_expired_brings_no_share_back() {
    let mut cluster = Cluster::new();
    cluster.join(Wish::ALL);
    cluster.join(Wish::ALL);
    let until = cluster.now + Duration::from_secs(30);
    for process in &mut cluster.processes {
        process.book.row_runs_since(1);
    }
    cluster.pass(5, &mut quick);
    let (now, book) = (cluster.now, &mut cluster.processes[1].book);
    book.row_runs_since(1);
    book.heard(until, [], now);
    assert_ne!(book.held(&shard()).share, Ratios::NONE);
    // It slept with its clock: to itself not a moment has passed.
    book.row_runs_since(2);
    book.heard(until, [], now);
    assert_eq!(book.held(&shard()).share, Ratios::NONE);
    let (_, writes) = book.next_write(now).expect("what it wants again");
    assert_eq!(writes[0].uses, Share::NOTHING);
    assert_ne!(writes[0].wants, Share::NOTHING);
}

#[test]
fn a_node_that_writes_elsewhere_keeps_an_equal_part() {
    let mut cluster = Cluster::new();
    for _ in 0..2 {
        cluster.join(Wish::ALL);
    }
    for process in &mut cluster.processes {
        process.book.writes_to(&BTreeSet::from(["s".into()]), true);
    }
    cluster.pass(5, &mut quick);
    cluster.processes[1].cut_until = cluster.now + Duration::from_secs(30);
    cluster.pass(20, &mut quick);
    assert_eq!(cluster.share_of(1), WHOLE / 2);
    assert_eq!(cluster.share_of(0), WHOLE / 2);
    assert!(cluster.most_used <= WHOLE);
    // It is found to be over: the other one gets all.
    cluster.processes[1].lives = false;
    cluster.table.forget("n1");
    cluster.pass(3, &mut quick);
    assert_eq!(cluster.share_of(0), WHOLE);
}

#[test]
fn a_node_that_is_cut_off_and_writes_nowhere_else_stops() {
    let mut cluster = Cluster::new();
    for _ in 0..2 {
        cluster.join(Wish::ALL);
    }
    cluster.pass(5, &mut quick);
    cluster.processes[1].cut_until = cluster.now + Duration::from_secs(30);
    cluster.pass(8, &mut quick);
    assert_eq!((cluster.share_of(0), cluster.share_of(1)), (WHOLE, 0));
    cluster.pass(30, &mut quick);
    assert_eq!(
        (cluster.share_of(0), cluster.share_of(1)),
        (WHOLE / 2, WHOLE / 2)
    );
}

#[test]
fn a_shard_that_is_left_is_given_back() {
    let mut cluster = Cluster::new();
    for _ in 0..2 {
        cluster.join(Wish::ALL);
    }
    cluster.pass(5, &mut quick);
    cluster.processes[1].book.leave(&shard());
    cluster.pass(3, &mut quick);
    assert_eq!(cluster.share_of(0), WHOLE);
    assert_eq!(cluster.processes[1].book.shards().count(), 0);
}

/// A run of random events. Answers the most that was used at any time, and the shares
/// at the end, when all has been quiet for a while.
fn run(seed: u64) -> (Parts, Vec<Parts>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cluster = Cluster::new();
    for _ in 0..random.u64(1..4) {
        cluster.join(Wish::ALL);
    }
    for _ in 0..random.u64(10..60) {
        let many = cluster.processes.len();
        let place = random.usize(0..many);
        let seconds = Duration::from_millis(random.u64(100..9_000));
        let until = cluster.now + seconds;
        let process = &mut cluster.processes[place];
        match random.u8(0..12) {
            0 if many < 9 => {
                cluster.join(Wish::ALL);
            }
            1 => process.lives = false,
            2 | 3 => process.frozen_until = until,
            4 | 5 => process.cut_until = until,
            6 => {
                process.wish = Wish {
                    records: random.u8(0..75),
                    bytes: random.u8(0..75),
                }
            }
            7 => process.wish = Wish::ALL,
            8 => {
                let elsewhere = random.bool();
                process
                    .book
                    .writes_to(&BTreeSet::from(["s".into()]), elsewhere);
            }
            9 => process.book.leave(&shard()),
            _ => {
                let now = cluster.now;
                process.book.enter(&shard(), now);
            }
        }
        for _ in 0..random.u64(1..60) {
            cluster.step(&mut |below| random.u64(0..below.max(1)));
        }
    }
    for process in &mut cluster.processes {
        let now = cluster.now;
        process.frozen_until = now;
        process.cut_until = now;
        process.wish = Wish::ALL;
        process.book.enter(&shard(), now);
        process.book.writes_to(&BTreeSet::from(["s".into()]), false);
    }
    // What is on its way comes, and rows expire.
    cluster.pass(15, &mut |below| random.u64(0..below.max(1)).min(3));
    let dead = cluster.processes.iter().filter(|process| !process.lives);
    for process in dead {
        cluster.table.forget(process.book.node());
    }
    cluster.pass(15, &mut |below| random.u64(0..below.max(1)).min(3));
    let places = 0..cluster.processes.len();
    let shares = places
        .filter(|place| cluster.processes[*place].lives)
        .map(|place| cluster.share_of(place));
    (cluster.most_used, shares.collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn nodes_never_use_more_than_the_shard_and_share_it_in_the_end(seed: u64) {
        let (most_used, shares) = run(seed);
        prop_assert!(invariants::shares_fit(most_used), "{most_used} parts were in use");
        if let (Some(most), Some(least)) = (shares.iter().max(), shares.iter().min()) {
            prop_assert!(shares.iter().sum::<Parts>() == WHOLE, "{:?}", shares);
            prop_assert!(most - least <= 1, "{:?}", shares);
        }
    }
}

/// Whether some seed finds a mistake.
#[cfg(feature = "demo")]
fn is_found(bug: Bug) -> bool {
    sabotage::make(Some(bug));
    let found = (1..200).any(|seed| !invariants::shares_fit(run(seed).0));
    sabotage::make(None);
    found
}

#[test]
#[cfg(feature = "demo")]
fn mistakes_are_found() {
    assert!(is_found(Bug::ShareOutlivesItsNode));
    assert!(is_found(Bug::RaisedWithoutRegard));
}
