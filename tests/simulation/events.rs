//! What happens to the world as a whole while it runs.

use std::time::Duration;

use crate::dice::Dice;
use crate::node::Node;
use crate::plan::Event;
use crate::world::{Shared, pass};

/// Lets things happen for as long as the plan says.
pub(crate) async fn happen(world: &Shared, nodes: &mut [Node], dice: &mut Dice) {
    let (events, every, end) = {
        let world = world.lock();
        let plan = &world.plan;
        (
            plan.events.clone(),
            plan.event_every_millis,
            world.now() + plan.load,
        )
    };
    loop {
        pass(dice.pause(every * 0.2, every * 3.0)).await;
        for node in nodes.iter_mut() {
            if !node.is_running() && dice.chance(0.7) {
                world.lock().note(format_args!("{} starts", node.name()));
                node.start();
            }
        }
        if world.lock().now() >= end {
            break;
        }
        if !events.is_empty() {
            happens(*dice.pick(&events), world, nodes, dice);
        }
    }
}

fn happens(event: Event, shared: &Shared, nodes: &mut [Node], dice: &mut Dice) {
    let mut guard = shared.lock();
    let world = &mut *guard;
    let now = world.now();
    let short = now + dice.pause(50.0, 4_000.0);
    let stream = dice.below(world.streams.len());
    let place = dice.below(nodes.len());
    world.note(format_args!("{event:?}"));
    match event {
        Event::KillNode => {
            drop(guard);
            nodes[place].kill();
        }
        Event::RestartNode => {
            drop(guard);
            nodes[place].terminate();
        }
        Event::CrashDatabase => {
            let lost = world.database.crash(dice);
            world.database.down_until = Some(now + dice.pause(10.0, 2_000.0));
            world.note(format_args!("the crash takes {lost} saves back"));
        }
        Event::DatabaseAway => world.database.down_until = Some(short),
        Event::PartitionNode => {
            let most = world.plan.lease.as_secs_f64().min(3.0) * 2_500.0;
            let until = now + dice.evenly(50.0, most);
            world.partitioned.insert(nodes[place].name().clone(), until);
        }
        Event::FreezeNode => {
            let most = world.plan.lease.as_secs_f64() * 2_500.0;
            let until = now + dice.evenly(50.0, most);
            nodes[place].freeze(until);
            world.asleep.insert(nodes[place].process_name(), until);
        }
        Event::Split => {
            world.streams[stream].split(dice, now);
            world.resharded_at[stream] = Some(now);
        }
        Event::Merge => {
            world.streams[stream].merge(dice, now);
            world.resharded_at[stream] = Some(now);
        }
        Event::ReshardAtOnce => {
            for _ in 0..3 {
                world.streams[stream].split(dice, now);
            }
            for _ in 0..2 {
                world.streams[stream].merge(dice, now);
            }
            world.resharded_at[stream] = Some(now);
        }
        Event::IgnoreKeys => {
            let ignores = world.streams[stream].ignores_keys;
            world.streams[stream].ignores_keys = !ignores;
        }
        Event::StickShard => {
            let open: Vec<usize> = (0..world.streams[stream].shards.len())
                .filter(|place| world.streams[stream].shards[*place].is_open)
                .collect();
            let shard = *dice.pick(&open);
            let as_throttled = dice.chance(0.5);
            let until = now + dice.evenly(200.0, 6_000.0);
            world.streams[stream].shards[shard].stuck_until = Some((until, as_throttled));
        }
        Event::ControlAway => world.control_away = Some(short),
        Event::ServiceAway => world.service_away = Some(short),
        Event::Redefine => {
            let names: Vec<String> = world.database.versions.keys().cloned().collect();
            let name = dice.pick(&names).clone();
            *world.database.versions.get_mut(&name).expect("known") += 1;
            world.catalog_generation += 1;
        }
    }
}

/// Everything works from now on.
pub(crate) fn heal(world: &Shared, nodes: &mut [Node]) {
    {
        let mut world = world.lock();
        world.healed = true;
        world.note(format_args!("healed"));
        for stream in &mut world.streams {
            stream.ignores_keys = false;
            for shard in &mut stream.shards {
                shard.stuck_until = None;
            }
        }
    }
    for node in nodes.iter_mut().filter(|node| !node.is_running()) {
        node.start();
    }
}

/// How long a healed world may take to settle: the longest pauses of the relay
/// (30 s each: a stream that was in trouble, a writer that was refused, a child
/// that failed) one after the other.
pub(crate) const SETTLES_WITHIN: Duration = Duration::from_secs(240);
