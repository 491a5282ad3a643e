use proptest::prelude::*;

use super::*;

const BARREN: Death = Death::Failure { progressed: false };
const AFTER_WORK: Death = Death::Failure { progressed: true };

fn at(seconds: u64) -> Moment {
    Moment::from_origin(Duration::from_secs(seconds))
}

fn millis(millis: u64) -> Moment {
    Moment::from_origin(Duration::from_millis(millis))
}

#[track_caller]
fn run(life: &mut Life, now: u64) {
    life.starts(at(now)).expect("it may start");
    life.runs(at(now)).expect("it may run");
}

#[track_caller]
fn dies(life: &mut Life, death: Death, now: u64, state: ChildState) -> Duration {
    run(life, now);
    let pause = life.died(death, at(now + 1), 1.0).expect("it may die");
    assert_eq!(life.state(), state);
    pause
}

#[test]
fn pauses_double_and_what_does_nothing_fails() {
    let mut life = Life::new(at(0));
    for (death, millis) in [50, 100, 200, 400].into_iter().enumerate() {
        let pause = dies(&mut life, BARREN, death as u64, ChildState::BackingOff);
        assert_eq!(pause, Duration::from_millis(millis));
    }
    assert_eq!(dies(&mut life, BARREN, 5, ChildState::Failed), FAILED_PAUSE);
    assert_eq!(
        dies(&mut life, BARREN, 40, ChildState::Failed),
        FAILED_PAUSE
    );
    dies(&mut life, AFTER_WORK, 80, ChildState::BackingOff);
}

#[test]
fn what_dies_quickly_again_and_again_fails_whatever_it_did() {
    let mut life = Life::new(at(0));
    for death in 1..FAILED_AFTER_QUICK {
        dies(
            &mut life,
            AFTER_WORK,
            u64::from(death),
            ChildState::BackingOff,
        );
    }
    for death in 0..20 {
        let pause = dies(&mut life, AFTER_WORK, 100 + 40 * death, ChildState::Failed);
        assert_eq!(pause, FAILED_PAUSE);
        assert!(life.has_failed());
    }
    run(&mut life, 1000);
    let healthy = at(1000) + HEALTHY_AFTER;
    let pause = life.died(AFTER_WORK, healthy, 1.0).expect("it may die");
    assert_eq!((life.state(), pause), (ChildState::BackingOff, PAUSES.0));
}

#[test]
fn only_a_healthy_period_forgets() {
    let mut life = Life::new(at(0));
    dies(&mut life, AFTER_WORK, 0, ChildState::BackingOff);
    let second = dies(&mut life, AFTER_WORK, 10, ChildState::BackingOff);
    assert_eq!(second, Duration::from_millis(100), "a start is not health");
    run(&mut life, 20);
    let third = life.died(AFTER_WORK, at(20) + HEALTHY_AFTER, 1.0);
    assert_eq!(third, Ok(PAUSES.0));
}

#[test]
fn waiting_to_be_started_is_not_health() {
    let mut life = Life::new(at(0));
    dies(&mut life, AFTER_WORK, 0, ChildState::BackingOff);
    life.starts(at(1)).expect("it may start");
    let pause = life.died(AFTER_WORK, at(1000), 1.0);
    assert_eq!(pause, Ok(Duration::from_millis(100)));
}

#[test]
fn the_innocent_and_the_orderly_lose_nothing() {
    let mut life = Life::new(at(0));
    for _ in 0..100 {
        let pause = dies(&mut life, Death::Innocent, 0, ChildState::BackingOff);
        assert_eq!(pause, PAUSES.0);
    }
    assert_eq!(
        dies(&mut life, Death::InOrder, 0, ChildState::Stopped),
        Duration::ZERO
    );
    assert_eq!(
        dies(&mut life, AFTER_WORK, 0, ChildState::BackingOff),
        PAUSES.0
    );
}

#[test]
fn silence_is_being_stuck_only_while_it_should_run() {
    let mut life = Life::new(at(0));
    assert!(!life.is_stuck(0, at(100)));
    run(&mut life, 100);
    assert!(!life.is_stuck(1, at(105)));
    assert!(!life.is_stuck(1, at(114)));
    assert!(life.is_stuck(1, at(115)));
    assert!(!life.is_stuck(2, at(116)), "a sign of life");
    life.drains(at(1000)).expect("it may drain");
    assert!(life.is_stuck(2, at(126)));
}

#[test]
fn a_drain_that_is_asked_for_again_does_not_last_longer() {
    let mut life = Life::new(at(0));
    run(&mut life, 0);
    life.drains(at(7)).expect("it may drain");
    life.drains(at(9)).expect("it may drain");
    assert_eq!(life.deadline(), Some(at(7)));
    life.drains(at(5)).expect("it may drain");
    assert_eq!(life.deadline(), Some(at(5)));
}

/// A life in a state, as short a way as there is.
fn life_in(state: ChildState) -> Life {
    let mut life = Life::new(at(0));
    match state {
        ChildState::Stopped => {}
        ChildState::Starting => life.starts(at(1)).expect("it may start"),
        ChildState::Running => run(&mut life, 0),
        ChildState::Draining => {
            run(&mut life, 0);
            life.drains(at(1)).expect("it may drain");
        }
        ChildState::BackingOff => {
            dies(&mut life, BARREN, 0, ChildState::BackingOff);
        }
        ChildState::Failed => {
            for _ in 0..FAILED_AFTER {
                run(&mut life, 0);
                life.died(BARREN, at(1), 0.5).expect("it may die");
            }
        }
    }
    assert_eq!(life.state(), state);
    life
}

fn take(life: &mut Life, step: Step, now: Moment) -> Result<(), IllegalStep> {
    match step {
        Step::Starts => life.starts(now + Duration::from_secs(5)),
        Step::Runs => life.runs(now),
        Step::Drains => life.drains(now + Duration::from_secs(9)),
        Step::Died => life.died(BARREN, now, 0.5).map(|_| ()),
        Step::Stops => life.stops(),
    }
}

/// The table of the module's documentation, written out once more.
#[test]
fn the_table_is_what_it_says() {
    use ChildState::{BackingOff, Draining, Failed, Running, Starting, Stopped};
    let table = [
        (Stopped, [Some(Starting), None, None, None, Some(Stopped)]),
        (
            Starting,
            [
                Some(Starting),
                Some(Running),
                None,
                Some(BackingOff),
                Some(Stopped),
            ],
        ),
        (
            Running,
            [None, None, Some(Draining), Some(BackingOff), None],
        ),
        (
            BackingOff,
            [Some(Starting), None, None, None, Some(Stopped)],
        ),
        (Failed, [Some(Starting), None, None, None, Some(Stopped)]),
        (
            Draining,
            [None, None, Some(Draining), Some(BackingOff), None],
        ),
    ];
    for (state, row) in table {
        for (step, expected) in Step::ALL.into_iter().zip(row) {
            let mut life = life_in(state);
            let done = take(&mut life, step, at(2));
            match expected {
                Some(next) => assert_eq!((done, life.state()), (Ok(()), next)),
                None => {
                    assert_eq!(done, Err(IllegalStep { state, step }));
                    assert_eq!(life.state(), state, "an illegal step changes nothing");
                }
            }
        }
    }
}

/// What somebody does with a child, who may be wrong about it.
#[derive(Debug, Clone)]
enum Act {
    Step(Step),
    Dies(Death),
    Sign,
}

fn acts() -> impl Strategy<Value = Act> {
    let deaths = prop_oneof![
        3 => Just(BARREN),
        3 => Just(AFTER_WORK),
        1 => Just(Death::Innocent),
        1 => Just(Death::InOrder),
    ];
    prop_oneof![
        4 => Just(Act::Step(Step::Starts)),
        4 => Just(Act::Step(Step::Runs)),
        1 => Just(Act::Step(Step::Drains)),
        1 => Just(Act::Step(Step::Stops)),
        4 => deaths.prop_map(Act::Dies),
        2 => Just(Act::Sign),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Whatever is asked of a child in whatever order.
    #[test]
    fn any_history_keeps_the_rules(
        history in proptest::collection::vec((acts(), 0_u64..40_000, 0.0..1.0_f64), 1..80),
    ) {
        let mut life = Life::new(Moment::ORIGIN);
        let mut now = 0;
        let mut incarnations = 0_u32;
        let mut began = Moment::ORIGIN;
        let mut signs = 0;
        let mut asked_to_end = None;
        // Pauses since the last healthy period.
        let mut longest = Duration::ZERO;
        for (act, passes, random) in history {
            now += passes;
            let here = millis(now);
            let before = life.state();
            match act {
                Act::Sign => {
                    signs += 1;
                    prop_assert!(!life.is_stuck(signs, here), "a sign of life");
                }
                Act::Step(step) => {
                    let done = take(&mut life, step, here);
                    prop_assert_eq!(done.is_ok(), step.is_legal_in(before));
                    if done.is_ok() && step == Step::Runs {
                        incarnations += 1;
                        began = here;
                        signs = 0;
                        asked_to_end = None;
                    }
                    if done.is_ok() && step == Step::Drains {
                        let end = here + Duration::from_secs(9);
                        asked_to_end = Some(asked_to_end.map_or(end, |first: Moment| first.min(end)));
                    }
                }
                Act::Dies(death) => {
                    let done = life.died(death, here, random);
                    prop_assert_eq!(done.is_ok(), Step::Died.is_legal_in(before));
                    if let Ok(pause) = done {
                        let was_healthy = before.is_alive() && here.since(began) >= HEALTHY_AFTER;
                        incarnations -= u32::from(before.is_alive());
                        if was_healthy {
                            longest = Duration::ZERO;
                        }
                        if let Death::Failure { .. } = death {
                            // Half of a pause is random: it never falls below half of
                            // what one before it was, unless it was healthy between.
                            prop_assert!(pause >= longest / 2, "{:?} after {:?}", pause, longest);
                            if life.state() == ChildState::BackingOff {
                                longest = longest.max(pause);
                            }
                            prop_assert!(!was_healthy || pause <= PAUSES.0);
                        }
                        if life.state() == ChildState::Failed {
                            prop_assert!(pause >= FAILED_PAUSE / 2 && pause <= FAILED_PAUSE);
                        }
                        prop_assert!(pause <= PAUSES.1);
                    }
                }
            }
            let state = life.state();
            // Never two of it.
            prop_assert_eq!(incarnations, u32::from(state.is_alive()));
            // Never without a timer, unless it is not wanted.
            prop_assert_eq!(life.deadline().is_none(), state == ChildState::Stopped);
            // A drain always ends.
            if state == ChildState::Draining {
                prop_assert!(life.deadline() <= asked_to_end);
            }
            // Failed is never the end: it may be started, and is not forgotten.
            if state == ChildState::Failed {
                prop_assert!(Step::Starts.is_legal_in(state));
                let due = life.deadline().expect("a timer");
                prop_assert!(!life.is_forgotten(Duration::from_secs(1), due));
                prop_assert!(life.is_forgotten(Duration::from_secs(1), due + Duration::from_secs(1)));
            }
            // Silence is found, in every incarnation.
            let silent = here + STUCK_AFTER;
            prop_assert_eq!(life.clone().is_stuck(signs, silent), state.is_alive());
        }
    }
}
