//! The rate of a tenant: of all its pipelines together, exact in the long run, and
//! nobody else waits for it.

use std::collections::HashMap;

use serde_json::json;
use tokio::time::Instant;

use crate::scenario::{PATIENCE, scenario_alone, until};
use crate::world::World;

/// Rows a second of the tenant, and what may go at once.
const RATE: f64 = 200.0;
const BURST: usize = 50;

/// Rows of each of its two pipelines: 15 s of the rate.
const ROWS: usize = 1_500;

#[tokio::test(flavor = "multi_thread")]
async fn two_pipelines_of_a_tenant_share_its_rate_and_others_do_not_wait() {
    scenario_alone(3 * PATIENCE, async {
        let world = World::new(2).await;
        let limits = json!({"max_messages_per_second": RATE, "burst": BURST});
        world
            .sql(&format!("SELECT tide.relay_set_tenant('slow', '{limits}')"))
            .await;
        world.pipeline("one", json!({"tenant": "slow"})).await;
        world
            .pipeline("two", json!({"tenant": "slow", "weight": 3}))
            .await;
        world.pipeline("free", json!({"tenant": "fast"})).await;
        let relay = world.relay().await;
        for name in ["one", "two", "free"] {
            relay.wait_for_state(name, "running").await;
        }
        world.emulator.tally().log_calls(100_000, false);
        let mut rows = world.publish_many("one", ROWS, 300, 10).await;
        rows.extend(world.publish_many("two", ROWS, 300, 10).await);
        let began = Instant::now();
        let free = world.publish_many("free", 1_000, 500, 10).await;
        world.wait_for(&free, PATIENCE).await;
        let of_free = began.elapsed();
        rows.extend(free);

        until("the status says why", PATIENCE, || {
            let status = relay.status();
            let tenants = status["tenants"].as_array().expect("a list").clone();
            tenants
                .iter()
                .any(|one| one["name"] == "slow" && one["limited_by"] == "quota")
        })
        .await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(verdict.duplicates, 0);

        // When its rows arrived, in order.
        let mut arrived: Vec<(Instant, String)> = Vec::new();
        let mut seen = HashMap::new();
        for record in world.arrived() {
            let row = tidegate::demo::delivered::Delivered::parse(&record).expect("a native body");
            if &*row.outbox != "free" && seen.insert(row.event(), ()).is_none() {
                arrived.push((record.received_at, row.outbox.to_string()));
            }
        }
        arrived.sort();
        assert_eq!(arrived.len(), 2 * ROWS);
        // Both have work until the heavier one is done.
        let last_of_two = arrived
            .iter()
            .rposition(|(_, outbox)| outbox == "two")
            .expect("rows");
        let of_two = ROWS as f64 / (last_of_two + 1) as f64;
        // Without what the burst let go at once.
        let first = arrived[2 * BURST].0;
        let last = arrived[arrived.len() - 1].0;
        let seconds = (last - first).as_secs_f64();
        let rate = (arrived.len() - 2 * BURST - 1) as f64 / seconds;
        let within_a_second = arrived
            .iter()
            .filter(|(at, _)| (*at - arrived[0].0).as_secs_f64() < 1.0)
            .count();
        let limited = relay.metric(
            "tidegate_tenant_limited_seconds_total",
            &[("tenant", "slow"), ("by", "quota")],
        );
        eprintln!(
            "{rate:.1} rows/s over {seconds:.1} s of {RATE}; {within_a_second} in the first second; \
             the pipeline of weight 3 got {of_two:.3}; limited by its rate for {limited:.1} s; 1,000 rows of another \
             tenant took {of_free:?}"
        );
        // Exactly it is tested in simulated time.
        assert!((0.8..1.05).contains(&(rate / RATE)), "{rate}");
        assert!(within_a_second as f64 <= RATE * 1.2 + BURST as f64);
        assert!((0.6..0.9).contains(&of_two), "{of_two}");
        assert!(limited > 1.0, "{limited}");
        assert!(of_free.as_secs_f64() < seconds / 2.0, "{of_free:?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
