//! Each rule by itself; `model` has them all at once.

mod model;

use super::*;
use crate::core::shard_map::HashRange;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    hash: u128,
    serial: usize,
}

/// Rows from here on may be in the stream.
const IN_DOUBT: usize = 1000;

impl Sendable for Row {
    fn hash(&self) -> u128 {
        self.hash
    }

    fn weight(&self) -> usize {
        1
    }

    fn key_bytes(&self) -> usize {
        1
    }

    fn is_of_key_of(&self, _: &Self) -> bool {
        true
    }

    fn doubt(&mut self) {}

    fn is_in_doubt(&self) -> bool {
        self.serial >= IN_DOUBT
    }
}

fn map(cuts: &[(u128, &str)]) -> Arc<ShardMap> {
    let mut shards = Vec::new();
    for (place, (first, id)) in cuts.iter().enumerate() {
        let last = cuts.get(place + 1).map_or(u128::MAX, |(next, _)| next - 1);
        shards.push(Shard {
            id: ShardId::from(*id),
            range: HashRange {
                first: *first,
                last,
            },
            parents: Vec::new(),
        });
    }
    Arc::new(ShardMap::new(shards).expect("a map"))
}

fn row(hash: u128, serial: usize) -> Row {
    Row { hash, serial }
}

type Steps = Vec<Step<char, Row>>;

fn deliver(shard: &str, tag: char, rows: Vec<Row>) -> Step<char, Row> {
    let shard = shard.into();
    Step::Deliver { shard, tag, rows }
}

fn ask(shard: &str, handover: HandoverId) -> Step<char, Row> {
    let shard = shard.into();
    Step::AskBack { shard, handover }
}

fn retire(shard: &str) -> Step<char, Row> {
    let shard = shard.into();
    Step::Retire { shard }
}

fn ready(cuts: &[(u128, &str)]) -> Routing<char, Row> {
    let mut routing = Routing::new(map(cuts));
    for (_, id) in cuts {
        assert_eq!(routing.writer_ready(&(*id).into()), []);
    }
    routing
}

#[test]
fn a_split_moves_the_queue_before_what_came_meanwhile() {
    let mut routing = ready(&[(0, "a"), (100, "z")]);
    let both = vec![row(1, 1), row(200, 1), row(60, 1)];
    let steps = routing.route(&'f', both);
    let to_a = deliver("a", 'f', vec![row(1, 1), row(60, 1)]);
    assert_eq!(steps, [to_a, deliver("z", 'f', vec![row(200, 1)])]);

    let halves = map(&[(0, "b"), (50, "c"), (100, "z")]);
    assert_eq!(routing.reshard(halves, Change::Reshard), [ask("a", 1)]);
    assert_eq!(routing.writer_ready(&"b".into()), []);
    assert_eq!(routing.writer_ready(&"c".into()), []);
    let later = vec![row(1, 2), row(200, 2)];
    let to_z = deliver("z", 'f', vec![row(200, 2)]);
    assert_eq!(routing.route(&'f', later), [to_z], "z is not touched");

    assert_eq!(
        routing.given_back(&"a".into(), 7, Vec::new()),
        [],
        "not asked"
    );
    let back = vec![('f', vec![row(1, 1), row(60, 1)])];
    let steps = routing.given_back(&"a".into(), 1, back);
    let expected: Steps = vec![
        retire("a"),
        deliver("b", 'f', vec![row(1, 1)]),
        deliver("b", 'f', vec![row(1, 2)]),
        deliver("c", 'f', vec![row(60, 1)]),
    ];
    assert_eq!(steps, expected);
    assert!(!routing.is_handing_over());
}

#[test]
fn a_merged_shard_waits_for_both_parents_and_its_writer() {
    let mut routing = ready(&[(0, "a"), (100, "b")]);
    let steps = routing.reshard(map(&[(0, "c")]), Change::Reshard);
    assert_eq!(steps, [ask("a", 1), ask("b", 1)]);
    let back = vec![('f', vec![row(150, 1)])];
    assert_eq!(routing.given_back(&"b".into(), 1, back), [retire("b")]);
    assert_eq!(routing.writer_ready(&"c".into()), []);
    assert_eq!(routing.route(&'f', vec![row(150, 2)]), []);
    let steps = routing.writer_gone(&"a".into());
    let expected: Steps = vec![
        retire("a"),
        deliver("c", 'f', vec![row(150, 1)]),
        deliver("c", 'f', vec![row(150, 2)]),
    ];
    assert_eq!(steps, expected);
}

#[test]
fn a_parent_without_a_writer_hands_over_what_waits_for_it() {
    let mut routing = Routing::new(map(&[(0, "a")]));
    assert_eq!(routing.route(&'f', vec![row(1, 1)]), []);
    let steps = routing.reshard(map(&[(0, "b")]), Change::Reshard);
    assert_eq!(steps, [retire("a")]);
    let steps = routing.writer_ready(&"b".into());
    assert_eq!(steps, [deliver("b", 'f', vec![row(1, 1)])]);
}

#[test]
fn a_shard_that_stays_under_its_id_gives_back_and_is_fed_again() {
    let mut routing = ready(&[(0, "a"), (100, "b")]);
    let steps = routing.reshard(map(&[(0, "a"), (50, "b")]), Change::Reshard);
    assert_eq!(steps, [ask("a", 1), ask("b", 1)]);
    let back = vec![('f', vec![row(1, 1), row(60, 1)])];
    let steps = routing.given_back(&"a".into(), 1, back);
    assert_eq!(steps, [deliver("a", 'f', vec![row(1, 1)])]);
    let steps = routing.given_back(&"b".into(), 1, Vec::new());
    assert_eq!(steps, [deliver("b", 'f', vec![row(60, 1)])]);
}

#[test]
fn a_stream_made_again_has_other_shards_of_the_same_ids() {
    let mut routing = ready(&[(0, "a")]);
    let steps = routing.reshard(map(&[(0, "a")]), Change::Renewal);
    assert_eq!(steps, [ask("a", 1)]);
    let back = vec![('f', vec![row(1, 1)])];
    assert_eq!(routing.given_back(&"a".into(), 1, back), [retire("a")]);
    assert_eq!(routing.route(&'f', vec![row(1, 2)]), [], "no writer yet");
    let steps = routing.writer_ready(&"a".into());
    let expected = [
        deliver("a", 'f', vec![row(1, 1)]),
        deliver("a", 'f', vec![row(1, 2)]),
    ];
    assert_eq!(steps, expected);
}

#[test]
fn the_newest_map_waits_for_the_end_of_a_hand_over() {
    let mut routing = ready(&[(0, "a")]);
    assert_eq!(
        routing.reshard(map(&[(0, "b")]), Change::Reshard),
        [ask("a", 1)]
    );
    assert_eq!(routing.reshard(map(&[(0, "c")]), Change::Reshard), []);
    assert_eq!(routing.reshard(map(&[(0, "d")]), Change::Reshard), []);
    assert_eq!(routing.map().shards()[0].id, "b".into());
    let back = vec![('f', vec![row(1, 1)])];
    let steps = routing.given_back(&"a".into(), 1, back);
    assert_eq!(steps, [retire("a"), retire("b")], "b has no writer yet");
    assert_eq!(routing.map().shards()[0].id, "d".into());
    let steps = routing.writer_ready(&"d".into());
    assert_eq!(steps, [deliver("d", 'f', vec![row(1, 1)])]);
}

#[test]
fn a_recall_takes_what_waits_and_was_in_no_call() {
    let mut routing = ready(&[(0, "a"), (100, "z")]);
    assert_eq!(routing.writer_gone(&"z".into()), []);
    let halves = map(&[(0, "b"), (50, "c"), (100, "z")]);
    assert_eq!(routing.reshard(halves, Change::Reshard), [ask("a", 1)]);
    for tag in ['f', 'g'] {
        let waiting = vec![row(60, 2), row(200, 2)];
        assert_eq!(routing.route(&tag, waiting), []);
    }
    assert_eq!(routing.writer_ready(&"b".into()), []);
    let back = vec![('f', vec![row(60, IN_DOUBT), row(60, 1)])];
    assert_eq!(routing.given_back(&"a".into(), 1, back), [retire("a")]);

    let recalled = routing.recall(|tag| *tag == 'f');
    let rows = recalled.into_iter().flat_map(|(tag, rows)| {
        assert_eq!(tag, 'f');
        rows
    });
    let mut rows: Vec<(u128, usize)> = rows.map(|row| (row.hash, row.serial)).collect();
    rows.sort_unstable();
    assert_eq!(rows, [(60, 1), (60, 2), (200, 2)]);
    assert_eq!(routing.recall(|tag| *tag == 'f'), [], "once");

    let steps = routing.writer_ready(&"c".into());
    let expected = [
        deliver("c", 'f', vec![row(60, IN_DOUBT)]),
        deliver("c", 'g', vec![row(60, 2)]),
    ];
    assert_eq!(steps, expected, "what may be in the stream goes on");
    let steps = routing.writer_ready(&"z".into());
    assert_eq!(steps, [deliver("z", 'g', vec![row(200, 2)])]);
}
