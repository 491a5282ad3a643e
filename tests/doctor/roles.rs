//! What the relay's role needs: no more than is checked, and no less.

use std::time::Duration;

use serde_json::json;
use tidegate::demo::private_postgres::PrivatePostgres;
use tidegate::postgres::checkup::privileges::needed;

use crate::scenario::scenario;
use crate::world::World;
use crate::{database, doctor};

const PLACE: (&str, &str) = ("database", "privileges");

/// A role without rights in the world's database, and the URL for it.
async fn role(world: &World, name: &str) -> String {
    let statement = format!("CREATE ROLE {name} LOGIN");
    database::server()
        .administer(&statement)
        .await
        .expect("a role");
    let database = world.url.rsplit('/').next().expect("a name");
    database::server().url_as(name, database)
}

/// Grants everything that the check asks for.
async fn grant(world: &World, role: &str) {
    for need in needed() {
        world.sql(&need.grant(role)).await;
    }
}

/// There is one list: what is checked is what `tidegate migrate` grants.
#[tokio::test]
async fn what_is_checked_is_what_the_schema_lists() {
    let pool = database::migrated().await;
    let listed: Vec<(String, String, Option<String>)> = sqlx::query_as(
        "SELECT r.object, split_part(one.privilege, ' as ', 1), r.columns FROM tide.role_rights() AS r
        CROSS JOIN unnest(string_to_array(replace(r.privileges, ' as owner', ''), ' ')) AS one (privilege)
        WHERE 'tide_relay' = ANY (string_to_array(r.role, ' '))",
    )
    .fetch_all(&pool)
    .await
    .expect("as the owner");
    let mut listed: Vec<String> = listed.iter().map(|one| format!("{one:?}")).collect();
    listed.sort();
    let mut checked: Vec<String> = needed()
        .into_iter()
        .map(|need| {
            let columns = (!need.columns.is_empty()).then(|| need.columns.join(" "));
            format!("{:?}", (need.object, need.privilege, columns))
        })
        .collect();
    checked.sort();
    assert_eq!(checked, listed);
    assert!(checked.len() > 25, "{checked:?}");
}

/// Where the roles of docs/security.md exist, the fix is to be a member.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_the_relays_role_has_all() {
    scenario(Duration::from_secs(120), async {
        // Roles are the server's: another test must not see them.
        let server = PrivatePostgres::start(Default::default()).expect("a server");
        let url = server.create_database("app").await.expect("a database");
        for statement in ["CREATE ROLE tide_relay", "CREATE ROLE lonely LOGIN"] {
            server.administer(statement).await.expect("a role");
        }
        let world = World::at(url, 1, Default::default()).await;
        tidegate::postgres::schema::migrate(&world.pool)
            .await
            .expect("migrated");
        world.pipeline("events", json!({})).await;
        let settings = world.settings(&[("DATABASE_URL", &server.url_as("lonely", "app"))]);
        let said = doctor(&settings, &[]).await;
        assert_eq!(said.fix(PLACE.0, PLACE.1), "GRANT tide_relay TO lonely");
        world.sql("GRANT tide_relay TO lonely").await;
        doctor(&settings, &[]).await.is_good_but(&[]);

        world
            .sql("REVOKE INSERT ON tide.relay_lease FROM tide_relay")
            .await;
        let said = doctor(&settings, &[]).await;
        said.has(
            PLACE,
            "fail",
            "lacks INSERT on tide.relay_lease",
            "grant_roles()",
        );
        world.sql(&said.fix(PLACE.0, PLACE.1)).await;
        doctor(&settings, &[]).await.is_good_but(&[]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lacking_is_named_and_granted_by_the_fix() {
    scenario(Duration::from_secs(120), async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let url = role(&world, "doctor_lacks").await;
        let settings = world.settings(&[("DATABASE_URL", &url)]);

        let said = doctor(&settings, &[]).await;
        said.has(
            PLACE,
            "fail",
            "USAGE on schema tide",
            "GRANT USAGE ON SCHEMA tide TO doctor_lacks",
        );
        assert_eq!(said.code, 1);

        grant(&world, "doctor_lacks").await;
        doctor(&settings, &[]).await.is_good_but(&[]);

        world
            .sql("REVOKE DELETE ON tide.outbox_message FROM doctor_lacks")
            .await;
        world
            .sql("REVOKE INSERT, UPDATE ON tide.relay_lease FROM doctor_lacks")
            .await;
        world
            .sql("REVOKE EXECUTE ON FUNCTION tide.outbox_unseen FROM doctor_lacks")
            .await;
        let said = doctor(&settings, &[]).await;
        said.is_good_but(&[PLACE]);
        said.has(
            PLACE,
            "fail",
            "DELETE on tide.outbox_message",
            "GRANT INSERT ON tide.relay_lease TO doctor_lacks",
        );
        said.has(PLACE, "fail", "EXECUTE on tide.outbox_unseen()", "");
        world.sql(&said.fix(PLACE.0, PLACE.1)).await;
        doctor(&settings, &[]).await.is_good_but(&[]);
    })
    .await;
}

/// Delivery, a dead letter, a replay, a pause, and a sweep, by a role that has what is
/// checked and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_needs_no_more_than_what_is_checked() {
    scenario(Duration::from_secs(240), async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let by_field = json!({"partition_key": "{payload.missing}"});
        world.pipeline("poison", by_field).await;
        let url = role(&world, "doctor_minimal").await;
        grant(&world, "doctor_minimal").await;
        let more = [
            ("DATABASE_URL", url.as_str()),
            ("TIDEGATE__RETENTION__INTERVAL", "1s"),
        ];
        let relay = world.relay_with(&more).await;
        let rows = world.publish_many("events", 50, 5, 100).await;
        world.wait_for(&rows, crate::scenario::PATIENCE).await;
        world.publish("poison", "k", json!({})).await;
        let parked = || relay.metric("tidegate_rows_parked_total", &[]) > 0.0;
        crate::scenario::until("a row is parked", crate::scenario::PATIENCE, parked).await;
        world.sql("SELECT tide.relay_replay('events', 1, 10)").await;
        let resent = || relay.metric("tidegate_rows_resent_total", &[]) >= 10.0;
        crate::scenario::until("rows are sent again", crate::scenario::PATIENCE, resent).await;
        world
            .sql("SELECT tide.relay_pause('pipeline', 'poison')")
            .await;
        relay.wait_for_state("poison", "paused").await;
        world
            .sql("UPDATE tide.outbox_message SET created_at = created_at - interval '2 days'")
            .await;
        let swept = || relay.metric("tidegate_retention_rows_removed_total", &[]) > 0.0;
        crate::scenario::until("rows are swept", crate::scenario::PATIENCE, swept).await;
        assert_eq!(relay.lines_with("permission denied"), Vec::<String>::new());
        assert_eq!(relay.lines_with("42501"), Vec::<String>::new());
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
