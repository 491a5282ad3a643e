//! The list of rights is complete, and what is granted is what is listed.

use crate::database;
use crate::roles::{House, administer};
use crate::statements::{run, value};

/// A migration that adds a table or function must say who may use it.
#[tokio::test]
async fn everything_in_the_schema_has_a_line_and_every_line_an_object() {
    let pool = database::migrated().await;
    let objects = "SELECT c.relname::text AS object FROM pg_class AS c
        WHERE c.relnamespace = 'tide'::regnamespace
            AND (c.relkind IN ('r', 'v', 'm', 'p') OR c.relkind = 'S' AND c.relname = 'relay_pipeline_version')
        UNION SELECT p.proname || '()' FROM pg_proc AS p WHERE p.pronamespace = 'tide'::regnamespace";
    let lines = "SELECT r.object FROM tide.role_rights() AS r WHERE r.object <> 'schema'";
    for (these, those) in [(objects, lines), (lines, objects)] {
        let alone: Vec<String> = value(
            &pool,
            &format!("SELECT ARRAY(({these}) EXCEPT ({those}) ORDER BY 1)"),
        )
        .await;
        assert!(
            alone.is_empty(),
            "src/postgres/roles.sql and the schema differ: {alone:?}"
        );
    }
    let columns: Vec<String> = value(
        &pool,
        "SELECT ARRAY(SELECT r.object || '.' || part.name FROM tide.role_rights() AS r
        CROSS JOIN unnest(string_to_array(r.columns, ' ')) AS part (name)
        WHERE NOT EXISTS (SELECT FROM pg_attribute AS a
            WHERE a.attrelid = to_regclass('tide.' || r.object) AND a.attname = part.name))",
    )
    .await;
    assert!(columns.is_empty(), "no such columns: {columns:?}");
}

/// Nobody but the owner calls anything without having been named, and what runs with
/// the owner's rights looks up names where nobody else can write.
#[tokio::test]
async fn functions_are_nobodys_by_default_and_pin_what_they_find() {
    let house = House::new().await;
    let open: Vec<String> = value(
        &house.owner,
        "SELECT ARRAY(SELECT p.oid::regprocedure::text FROM pg_proc AS p
        CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
        WHERE p.pronamespace = 'tide'::regnamespace AND a.grantee = 0)",
    )
    .await;
    assert!(open.is_empty(), "PUBLIC may call {open:?}");
    let definers: i64 = value(
        &house.owner,
        "SELECT count(*) FROM pg_proc AS p WHERE p.pronamespace = 'tide'::regnamespace AND p.prosecdef",
    )
    .await;
    assert!(definers >= 25, "{definers}");
    let loose: Vec<String> = value(
        &house.owner,
        "SELECT ARRAY(SELECT p.oid::regprocedure::text FROM pg_proc AS p
        WHERE p.pronamespace = 'tide'::regnamespace
            AND 'search_path=pg_catalog, pg_temp' <> ALL (coalesce(p.proconfig, '{}')) ORDER BY 1)",
    )
    .await;
    // They run with their caller's rights, and name the schema of everything.
    assert_eq!(
        loose,
        [
            "tide.outbox_publish(text,jsonb,jsonb,text)",
            "tide.outbox_publish_many(text,jsonb[],jsonb[],text[])"
        ]
    );
}

/// All rights of the four roles, and of everybody.
const RIGHTS: &str = "SELECT ARRAY(
    SELECT x::text FROM (
        SELECT c.relname::text, a.* FROM pg_class AS c, aclexplode(c.relacl) AS a WHERE c.relnamespace = 'tide'::regnamespace
        UNION ALL
        SELECT c.relname || '.' || t.attname, a.* FROM pg_class AS c JOIN pg_attribute AS t ON t.attrelid = c.oid,
            aclexplode(t.attacl) AS a WHERE c.relnamespace = 'tide'::regnamespace
        UNION ALL
        SELECT p.oid::regprocedure::text, a.* FROM pg_proc AS p, aclexplode(p.proacl) AS a
        WHERE p.pronamespace = 'tide'::regnamespace
    ) AS x ORDER BY 1)";

#[tokio::test]
async fn granting_again_changes_nothing_and_mends_what_was_changed() {
    let house = House::new().await;
    let owner = &house.owner;
    let before: Vec<String> = value(owner, RIGHTS).await;
    let version = "SELECT sum(xmin::text::bigint)::text FROM (
        SELECT xmin FROM pg_class WHERE relnamespace = 'tide'::regnamespace
        UNION ALL SELECT xmin FROM pg_proc WHERE pronamespace = 'tide'::regnamespace
        UNION ALL SELECT xmin FROM pg_namespace WHERE nspname = 'tide') AS x";
    let rows: String = value(owner, version).await;
    run(owner, "SELECT tide.grant_roles()").await;
    assert_eq!(
        value::<String>(owner, version).await,
        rows,
        "the catalog was written"
    );

    let other = house.login("other", "").await;
    run(
        owner,
        &format!(
            "GRANT DELETE ON tide.relay_position TO tide_relay;
            GRANT SELECT ON tide.relay_pipeline TO tide_reader;
            REVOKE INSERT ON tide.relay_lease FROM tide_relay;
            REVOKE SELECT (id) ON tide.outbox_message FROM tide_reader;
            GRANT EXECUTE ON FUNCTION tide.relay_pause, tide.forget_position TO PUBLIC;
            GRANT EXECUTE ON FUNCTION tide.forget_position TO tide_operator;
            ALTER FUNCTION tide.relay_pause(text, text, text, boolean) SECURITY INVOKER;
            ALTER FUNCTION tide.relay_resume(text, text) SET search_path = public;
            GRANT SELECT ON tide.outbox TO {other}"
        ),
    )
    .await;
    run(owner, "SELECT tide.grant_roles()").await;
    let mut after: Vec<String> = value(owner, RIGHTS).await;
    // What a role of somebody else's was granted is left alone.
    let theirs: i64 = value(owner, &format!("SELECT '{other}'::regrole::oid::bigint")).await;
    let count = after.len();
    after.retain(|right| !right.contains(&theirs.to_string()));
    assert_eq!(count - after.len(), 1, "{other} keeps what it was granted");
    let differ = |these: &[String], those: &[String]| -> Vec<String> {
        these
            .iter()
            .filter(|right| !those.contains(right))
            .cloned()
            .collect()
    };
    assert_eq!(differ(&after, &before), Vec::<String>::new(), "too much");
    assert_eq!(differ(&before, &after), Vec::<String>::new(), "missing");
    let mended: bool = value(
        owner,
        "SELECT bool_and(p.prosecdef AND 'search_path=pg_catalog, pg_temp' = ANY (p.proconfig)) FROM pg_proc AS p
        WHERE p.proname IN ('relay_pause', 'relay_resume')",
    )
    .await;
    assert!(mended);
}

/// The roles are the server's: rights are of each database by itself.
#[tokio::test]
async fn databases_of_a_server_share_the_roles_and_nothing_else() {
    let (one, other) = tokio::join!(House::new(), House::new());
    run(&one.owner, "SELECT tide.outbox_create('a')").await;
    run(&other.owner, "SELECT tide.outbox_create('a')").await;
    let login = one.login("tenant", "tide_publisher").await;
    run(
        &one.owner,
        &format!("SELECT tide.outbox_grant_publish('a', '{login}')"),
    )
    .await;
    let publish = "SELECT tide.outbox_publish('a', '1')";
    value::<i64>(&one.sessions(&login), publish).await;
    crate::statements::assert_refused(
        &other.sessions(&login),
        publish,
        "42501",
        &["may not publish"],
    )
    .await;
    administer(&format!("REVOKE tide_publisher FROM {login}")).await;
}
