//! Reloads at bad moments: many at once, while the supervisor dies, from files that
//! secrets are kept in.

use serde_json::{Value, json};

use crate::configured::{File, reload, reloads, take};
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::{STREAM, World};

fn configuration(world: &World, outboxes: &[&str]) -> Value {
    let pipeline = |outbox: &&str| json!({"name": outbox, "outbox": outbox, "stream_name": STREAM, "region": "us-east-1"});
    json!({
        "databases": [{"name": "default", "url": world.url}],
        "admin": {"listen": "127.0.0.1:0"},
        "cluster": {"lease": "2s"},
        "pipelines": outboxes.iter().map(pipeline).collect::<Vec<_>>(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_end_with_what_was_written_last() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.lost_counters();
        for outbox in ["a", "b"] {
            world.outbox(outbox).await;
        }
        let both = configuration(&world, &["a", "b"]);
        let file = File::with(&both);
        let relay = file.relay(&world, &[]).await;
        let hash = relay.status()["config"]["hash"].clone();
        let mut asked = 0;
        for round in 0..20 {
            let mut other = configuration(&world, &["a"]);
            other["limits"] = json!({"pipeline_rows": 100 + round});
            file.write(&other);
            for _ in 0..10 {
                relay.signal("HUP");
                asked += 1;
            }
        }
        file.write(&both);
        relay.signal("HUP");
        // None is under way and none is to come when the last one was taken.
        let is_last = || relay.status()["config"]["hash"] == hash;
        until("the last one is taken", PATIENCE, is_last).await;
        for pipeline in ["a", "b"] {
            relay.wait_for_state(pipeline, "running").await;
        }
        let ended = reloads(&relay);
        assert!((2..=asked + 1).contains(&ended), "{ended} reloads");
        let mut rows = world.publish_many("a", 20, 3, 10).await;
        rows.extend(world.publish_many("b", 20, 3, 10).await);
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert!(relay.metric("tidegate_actor_restarts_total", &[]).abs() < f64::EPSILON);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_dies_of_a_reload_is_built_anew_with_it() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.lost_counters();
        for outbox in ["a", "b"] {
            world.outbox(outbox).await;
        }
        let file = File::with(&configuration(&world, &["a"]));
        let faults = [("TIDEGATE_TEST_FAULTS", "supervisor.Reload=1")];
        let relay = file.relay(&world, &faults).await;
        relay.wait_for_state("a", "running").await;
        file.write(&configuration(&world, &["a", "b"]));
        // Asked for once; the one that is built anew answers it.
        let config = reload(&relay).await;
        assert_eq!(config["last_reload"]["successful"], true, "{config}");
        assert!((relay.panics("supervisor") - 1.0).abs() < f64::EPSILON);
        for pipeline in ["a", "b"] {
            relay.wait_for_state(pipeline, "running").await;
        }
        // It goes on with reloads, and dies no more.
        let config = take(&relay, &file, &configuration(&world, &["b"])).await;
        until("a is gone", PATIENCE, || relay.pipeline("a").is_null()).await;
        let rows = world.publish_many("b", 20, 3, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        assert_eq!(relay.status()["config"]["hash"], config["hash"]);
        assert!((relay.panics("supervisor") - 1.0).abs() < f64::EPSILON);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_dies_later_keeps_what_was_taken() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.lost_counters();
        for outbox in ["a", "b"] {
            world.outbox(outbox).await;
        }
        let file = File::with(&configuration(&world, &["a"]));
        // About ten seconds after its start.
        let faults = [("TIDEGATE_TEST_FAULTS", "supervisor.Tick=60")];
        let relay = file.relay(&world, &faults).await;
        relay.wait_for_state("a", "running").await;
        take(&relay, &file, &configuration(&world, &["b"])).await;
        until("the supervisor dies", PATIENCE, || {
            relay.panics("supervisor") > 0.5
        })
        .await;
        relay.wait_for_state("b", "running").await;
        let rows = world.publish_many("b", 20, 3, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        until("a is gone", PATIENCE, || relay.pipeline("a").is_null()).await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_was_replaced_in_its_file_is_read_again() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.outbox("a").await;
        let mut wanted = configuration(&world, &["a"]);
        let file = File::with(&wanted);
        let secret = file.beside("secret");
        std::fs::write(&secret, "one\n").expect("written");
        wanted["pipelines"][0]["access_key_id"] = "AKIA".into();
        let reference = format!("${{file:{}}}", secret.display());
        wanted["pipelines"][0]["secret_access_key"] = reference.into();
        file.write(&wanted);
        let relay = file.relay(&world, &[]).await;
        relay.wait_for_state("a", "running").await;
        let rows = world.publish_many("a", 20, 3, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        let epoch = relay.pipeline("a")["epoch"].as_u64();
        let hash = relay.status()["config"]["hash"].clone();
        std::fs::write(&secret, "two\n").expect("written");
        let config = reload(&relay).await;
        assert_eq!(config["last_reload"]["successful"], true, "{config}");
        assert_eq!(config["hash"], hash, "no secret is in it");
        until("it has another client", PATIENCE, || {
            relay.pipeline("a")["epoch"].as_u64() > epoch
        })
        .await;
        std::fs::remove_file(&secret).expect("removed");
        let config = reload(&relay).await;
        assert_eq!(config["last_reload"]["successful"], false, "{config}");
        let rows = world.publish_many("a", 20, 3, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
