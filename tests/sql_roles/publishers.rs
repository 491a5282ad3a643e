//! Publishers: to the outboxes they were granted, in every way one can publish, and
//! nothing else.

use crate::roles::{House, administer};
use crate::statements::{assert_refused, run, value};

const PUBLISH: &str = "SELECT tide.outbox_publish('a', '{\"n\": 1}', '{}', 'k')";
const PUBLISH_MANY: &str = "SELECT tide.outbox_publish_many('a', '{1,2}')";

async fn with_outboxes() -> House {
    let house = House::new().await;
    run(
        &house.owner,
        "SELECT tide.outbox_create('a'), tide.outbox_create('b')",
    )
    .await;
    house
}

/// Rows of an outbox, as the owner sees them.
async fn rows(house: &House, outbox: &str) -> i64 {
    let of = format!(
        "SELECT count(*) FROM tide.outbox_message AS m JOIN tide.outbox AS o USING (outbox_id) WHERE o.name = '{outbox}'"
    );
    value(&house.owner, &of).await
}

async fn grant(house: &House, outbox: &str, role: &str) -> bool {
    let grant = format!("SELECT tide.outbox_grant_publish('{outbox}', '{role}')");
    value(&house.owner, &grant).await
}

#[tokio::test]
async fn a_publisher_may_publish_nothing_until_it_is_granted_an_outbox() {
    let house = with_outboxes().await;
    let (login, tenant) = house.user("tenant", "tide_publisher").await;
    let may_not = [
        "may not publish",
        "'a'",
        login.as_str(),
        "outbox_grant_publish",
    ];
    assert_refused(&tenant, PUBLISH, "42501", &may_not).await;
    assert_refused(&tenant, PUBLISH_MANY, "42501", &may_not).await;

    assert!(grant(&house, "a", &login).await, "new");
    assert!(!grant(&house, "a", &login).await, "granted already");
    let id: i64 = value(&tenant, PUBLISH).await;
    let ids: Vec<i64> = value(&tenant, PUBLISH_MANY).await;
    assert!(ids[0] > id && ids[1] > ids[0], "{id} {ids:?}");
    assert_eq!(rows(&house, "a").await, 3);

    // Another outbox, one that does not exist: it cannot tell which is which.
    for outbox in ["b", "c"] {
        let publish = format!("SELECT tide.outbox_publish('{outbox}', '1')");
        assert_refused(&tenant, &publish, "42501", &["may not publish", outbox]).await;
    }
    assert_eq!(rows(&house, "b").await, 0);

    let revoke = format!("SELECT tide.outbox_revoke_publish('a', '{login}')");
    assert!(value::<bool>(&house.owner, &revoke).await, "was granted");
    assert!(!value::<bool>(&house.owner, &revoke).await, "was not");
    assert_refused(&tenant, PUBLISH, "42501", &may_not).await;
    assert_refused(&tenant, PUBLISH_MANY, "42501", &may_not).await;
    assert_eq!(rows(&house, "a").await, 3);
}

#[tokio::test]
async fn mistakes_of_a_publisher_are_named_to_it() {
    let house = with_outboxes().await;
    let (login, tenant) = house.user("tenant", "").await;
    grant(&house, "a", &login).await;
    let refused: [(&str, &str, &[&str]); 6] = [
        (
            "tide.outbox_publish('a', NULL)",
            "22004",
            &["payload is NULL"],
        ),
        (
            "tide.outbox_publish('a', '1', '[]')",
            "22023",
            &["headers must be"],
        ),
        (
            "tide.outbox_publish('a', '1', '{}', '')",
            "22023",
            &["dedup_key is empty"],
        ),
        (
            "tide.outbox_publish_many('a', '{1,NULL}')",
            "22004",
            &["of message 2 is NULL"],
        ),
        (
            "tide.outbox_publish_many('a', '{1}', '{}')",
            "22023",
            &["1 elements, headers 0"],
        ),
        (
            "tide.outbox_publish(NULL, '1')",
            "22023",
            &["outbox name NULL"],
        ),
    ];
    for (call, code, words) in refused {
        assert_refused(&tenant, &format!("SELECT {call}"), code, words).await;
    }

    run(&house.owner, "SELECT tide.outbox_disable('a')").await;
    assert_refused(&tenant, PUBLISH, "55000", &["'a' is disabled"]).await;
    assert_refused(&tenant, PUBLISH_MANY, "55000", &["'a' is disabled"]).await;
}

/// A role that is no member of `tide_publisher` is made one if the owner may do
/// that, and is granted what it needs otherwise.
#[tokio::test]
async fn a_grant_works_whether_or_not_the_owner_may_give_memberships() {
    let house = with_outboxes().await;
    let (direct, one) = house.user("direct", "").await;
    grant(&house, "a", &direct).await;
    value::<i64>(&one, PUBLISH).await;
    let member = |login: &str| format!("SELECT pg_has_role('{login}', 'tide_publisher', 'MEMBER')");
    assert!(!value::<bool>(&house.owner, &member(&direct)).await);

    administer(&format!(
        "GRANT tide_publisher TO {} WITH ADMIN OPTION",
        crate::roles::SCHEMA_OWNER
    ))
    .await;
    let (through_role, other) = house.user("member", "").await;
    grant(&house, "a", &through_role).await;
    value::<i64>(&other, PUBLISH).await;
    assert!(value::<bool>(&house.owner, &member(&through_role)).await);
    administer(&format!(
        "REVOKE tide_publisher FROM {} CASCADE",
        crate::roles::SCHEMA_OWNER
    ))
    .await;

    // Who does not inherit cannot use what it is a member of: it is granted by name.
    let (alone, third) = house.user("alone", "").await;
    administer(&format!("ALTER ROLE {alone} NOINHERIT")).await;
    administer(&format!("GRANT tide_publisher TO {alone}")).await;
    grant(&house, "a", &alone).await;
    value::<i64>(&third, PUBLISH).await;

    for login in [&direct, &through_role, &alone] {
        run(
            &house.owner,
            &format!("SELECT tide.outbox_revoke_publish('a', '{login}')"),
        )
        .await;
    }
    for sessions in [&one, &other, &third] {
        assert_refused(sessions, PUBLISH, "42501", &[]).await;
    }
    // Nothing is left that would keep a role from being dropped.
    for (login, sessions) in [(&direct, one), (&alone, third)] {
        sessions.close().await;
        administer(&format!("DROP ROLE {login}")).await;
    }
}

/// Grants are of roles, so they are inherited, follow a renamed role, and end with
/// a dropped one, also if another of its name is made.
#[tokio::test]
async fn a_grant_is_of_a_role_and_not_of_a_name() {
    let house = with_outboxes().await;
    let odd = format!("Odd \"q\" {}", house.database);
    let quoted = format!("\"{}\"", odd.replace('"', "\"\""));
    administer(&format!("CREATE ROLE {quoted} NOLOGIN")).await;
    let (login, member) = house.user("member", &quoted).await;
    grant(&house, "a", &odd).await;
    value::<i64>(&member, PUBLISH).await;
    let listed: String = value(&house.owner, "SELECT role FROM tide.outbox_publisher").await;
    assert_eq!(listed, odd);

    administer(&format!(
        "ALTER ROLE {quoted} RENAME TO renamed_{}",
        house.database
    ))
    .await;
    value::<i64>(&member, PUBLISH).await;
    administer(&format!("REVOKE renamed_{} FROM {login}", house.database)).await;
    assert_refused(&member, PUBLISH, "42501", &[]).await;
    administer(&format!("GRANT renamed_{} TO {login}", house.database)).await;

    let superuser = house.sessions("postgres");
    run(
        &superuser,
        &format!("DROP OWNED BY renamed_{}", house.database),
    )
    .await;
    administer(&format!("DROP ROLE renamed_{}", house.database)).await;
    administer(&format!("CREATE ROLE renamed_{} NOLOGIN", house.database)).await;
    administer(&format!(
        "GRANT renamed_{}, tide_publisher TO {login}",
        house.database
    ))
    .await;
    assert_refused(&member, PUBLISH, "42501", &["may not publish"]).await;
    let listed: i64 = value(&house.owner, "SELECT count(*) FROM tide.outbox_publisher").await;
    assert_eq!(listed, 0);
}

#[tokio::test]
async fn a_publisher_sees_its_outboxes_and_nothing_else_of_the_schema() {
    let house = with_outboxes().await;
    let (login, tenant) = house.user("tenant", "tide_publisher").await;
    grant(&house, "a", &login).await;
    run(
        &house.owner,
        "SELECT tide.outbox_publish('b', '{\"theirs\": 1}')",
    )
    .await;
    let mine: i64 = value(&tenant, PUBLISH).await;

    let seen: Vec<String> = value(
        &tenant,
        "SELECT ARRAY(SELECT name FROM tide.outbox_publishable)",
    )
    .await;
    assert_eq!(seen, ["a"]);
    let ids: Vec<i64> = value(&tenant, "SELECT ARRAY(SELECT id FROM tide.outbox_entry)").await;
    assert_eq!(ids, [mine]);

    let readable: Vec<String> = value(
        &tenant,
        "SELECT ARRAY(SELECT c.relname::text FROM pg_class AS c
        WHERE c.relnamespace = 'tide'::regnamespace AND c.relkind IN ('r', 'v')
            AND has_any_column_privilege(c.oid, 'SELECT') ORDER BY 1)",
    )
    .await;
    assert_eq!(readable, ["outbox_entry", "outbox_publishable"]);
    for denied in [
        "SELECT payload FROM tide.outbox_entry",
        "SELECT * FROM tide.outbox_message",
        "SELECT * FROM tide.outbox",
        "SELECT config FROM tide.relay_pipeline",
        "SELECT * FROM tide.relay_dead_letter",
        "SELECT * FROM tide.outbox_grant",
        "SELECT * FROM tide.relay_list_configs()",
        "SELECT tide.outbox_status('a')",
        "SELECT tide.outbox_grant_publish('b', session_user)",
        "SELECT tide.let_publish(1)",
        "SELECT * FROM tide.grant_roles()",
        "UPDATE tide.outbox_entry SET payload = '1'",
        "DELETE FROM tide.outbox_entry",
        "INSERT INTO tide.outbox_message (outbox_id, payload) VALUES (1, '1')",
        "INSERT INTO tide.outbox_grant (outbox_id, grantee) VALUES (2, session_user::regrole)",
    ] {
        assert_refused(&tenant, denied, "42501", &["permission denied"]).await;
    }
}

/// Whoever had been granted the tables by hand goes on as before.
#[tokio::test]
async fn the_right_to_insert_into_the_table_is_the_right_to_publish_to_all() {
    let house = with_outboxes().await;
    value::<i64>(&house.owner, PUBLISH).await;
    let (login, app) = house.user("app", "tide_publisher").await;
    assert_refused(&app, PUBLISH, "42501", &[]).await;
    run(
        &house.owner,
        &format!(
            "GRANT SELECT ON tide.outbox TO {login};
            GRANT SELECT, INSERT ON tide.outbox_message TO {login}"
        ),
    )
    .await;
    value::<i64>(&app, PUBLISH).await;
    assert_refused(
        &app,
        "SELECT tide.outbox_publish('c', '1')",
        "42704",
        &["does not exist"],
    )
    .await;
    run(
        &house.owner,
        &format!(
            "REVOKE INSERT ON tide.outbox_message FROM {login};
            GRANT INSERT (outbox_id, payload) ON tide.outbox_message TO {login}"
        ),
    )
    .await;
    value::<Vec<i64>>(&app, PUBLISH_MANY).await;
}

#[tokio::test]
async fn mistakes_in_granting_are_named() {
    let house = with_outboxes().await;
    for function in ["outbox_grant_publish", "outbox_revoke_publish"] {
        let to_nobody = format!("SELECT tide.{function}('a', 'no_such_role')");
        assert_refused(
            &house.owner,
            &to_nobody,
            "42704",
            &["role 'no_such_role' does not exist", "pg_roles"],
        )
        .await;
        let of_nothing = format!("SELECT tide.{function}('no', 'tide_publisher')");
        assert_refused(
            &house.owner,
            &of_nothing,
            "42704",
            &["outbox 'no' does not exist"],
        )
        .await;
        let null = format!("SELECT tide.{function}(NULL, 'tide_publisher')");
        assert_refused(&house.owner, &null, "42704", &["outbox NULL"]).await;
        let null = format!("SELECT tide.{function}('a', NULL)");
        assert_refused(&house.owner, &null, "42704", &["role NULL"]).await;
    }
}

/// What is granted to `tide_publisher` is everybody's who publishes.
#[tokio::test]
async fn an_outbox_can_be_opened_to_all_publishers() {
    let house = with_outboxes().await;
    let (_, tenant) = house.user("tenant", "tide_publisher").await;
    grant(&house, "a", "tide_publisher").await;
    value::<i64>(&tenant, PUBLISH).await;
    run(
        &house.owner,
        "SELECT tide.outbox_revoke_publish('a', 'tide_publisher')",
    )
    .await;
    assert_refused(&tenant, PUBLISH, "42501", &["may not publish"]).await;
}

/// An outbox of the same name that is made anew is another one.
#[tokio::test]
async fn a_grant_ends_with_its_outbox() {
    let house = with_outboxes().await;
    let (login, tenant) = house.user("tenant", "tide_publisher").await;
    grant(&house, "a", &login).await;
    run(&house.owner, "SELECT tide.outbox_drop('a')").await;
    run(&house.owner, "SELECT tide.outbox_create('a')").await;
    assert_refused(&tenant, PUBLISH, "42501", &["may not publish"]).await;
}
