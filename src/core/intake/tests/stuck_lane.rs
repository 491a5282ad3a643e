//! A lane whose shard takes nothing.

use super::*;

#[test]
fn a_stuck_lane_keeps_windows_few_and_a_crash_sends_little_again() {
    let limits = IntakeLimits {
        rows: 20,
        stashed: 100_000,
        merge_above: 8,
    };
    let mut steps = Vec::new();
    for round in 0..2000_usize {
        steps.push(Step::Begin);
        for hash in [round % 3, 3 + round % 3, 6 + round % 3] {
            steps.push(Step::Insert {
                transaction: 0,
                hash,
            });
        }
        steps.push(Step::End {
            transaction: 0,
            commit: true,
        });
        steps.extend([
            Step::Read { times: 3 },
            Step::Settle { rows: 9 },
            Step::Pass { millis: 30 },
        ]);
    }
    let mut world = run(steps, limits, true);
    assert!(
        world.most_windows < 40,
        "{} windows open",
        world.most_windows
    );
    assert_eq!(world.settled.len(), 4000, "the other lanes flow on");
    world.now = world.now + Duration::from_secs(1);
    while world.read_once() {}
    world.save();
    world.crash();
    finish(&mut world);
    assert!(world.duplicates <= 40, "{} sent again", world.duplicates);
}
