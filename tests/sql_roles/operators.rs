//! Operators decide through functions and write no table; readers look, without
//! contents and secrets.

use serde_json::json;

use crate::roles::House;
use crate::statements::{assert_refused, json_value, run, value};

const SECRETS: [&str; 4] = [
    "AKIACANARY0000004711",
    "canary-secret",
    "canary-token",
    "canary-external",
];

/// An outbox `a` with a pipeline `p` that has secrets, a position, a row that it has
/// read, and a letter.
async fn with_pipeline() -> House {
    let house = House::new().await;
    let owner = &house.owner;
    run(owner, "SELECT tide.outbox_create('a')").await;
    let [key, secret, token, external] = SECRETS;
    let config = json!({
        "sink_type": "kinesis", "stream_name": "s", "access_key_id": key, "secret_access_key": secret,
        "session_token": token, "role_arn": "arn:aws:iam::123456789012:role/relay", "external_id": external,
    });
    run(
        owner,
        &format!("SELECT tide.relay_set_outbox('p', 'a', '{config}')"),
    )
    .await;
    run(
        owner,
        "SELECT tide.outbox_publish('a', '{\"inside\": \"payload\"}', '{}', 'key')",
    )
    .await;
    run(
        owner,
        "INSERT INTO tide.relay_position (pipeline, outbox_id, epoch, base)
        SELECT 'p', o.outbox_id, 1, pg_current_snapshot() FROM tide.outbox AS o;
        INSERT INTO tide.relay_lease VALUES ('p', '', 1, '-infinity');
        INSERT INTO tide.relay_dead_letter (pipeline, outbox_id, row_id, window_number, payload, headers,
            created_at, reason, message, state)
        SELECT 'p', m.outbox_id, m.id, 1, m.payload, m.headers, m.created_at, 'record_too_large', 'the message', 'parked'
        FROM tide.outbox_message AS m",
    )
    .await;
    house
}

#[tokio::test]
async fn an_operator_does_everything_that_the_documentation_calls_operating() {
    let house = with_pipeline().await;
    let tenant = house.login("tenant", "").await;
    let (login, operator) = house.user("operator", "tide_operator").await;
    let letter: i64 = value(&operator, "SELECT letter_id FROM tide.relay_dlq_list()").await;
    let row: i64 = value(&operator, "SELECT max(id) FROM tide.outbox_message").await;
    let again = "INSERT INTO tide.relay_dead_letter (pipeline, outbox_id, row_id, window_number, payload, headers,
        created_at, reason, message, state) VALUES ('p', 1, 99, 1, '{}', '{}', now(), 'x', 'x', 'parked')";
    let calls = [
        "tide.outbox_create('b', 5)".to_owned(),
        "tide.outbox_create_if_not_exists('b')".to_owned(),
        "tide.outbox_disable('b')".to_owned(),
        "tide.outbox_enable('b')".to_owned(),
        "tide.outbox_set_retention('b', 48)".to_owned(),
        format!("tide.outbox_grant_publish('b', '{tenant}')"),
        format!("tide.outbox_revoke_publish('b', '{tenant}')"),
        "tide.outbox_status('b')".to_owned(),
        "tide.relay_set_outbox('q', 'b', '{\"sink_type\": \"kinesis\", \"stream_name\": \"s\"}')"
            .to_owned(),
        "tide.relay_disable('q')".to_owned(),
        "tide.relay_enable('q')".to_owned(),
        "tide.relay_pause('pipeline', 'q', 'why')".to_owned(),
        "tide.relay_pauses()".to_owned(),
        "tide.relay_resume('pipeline', 'q')".to_owned(),
        "tide.relay_get_config('p')".to_owned(),
        "tide.relay_list_configs()".to_owned(),
        format!("tide.relay_replay_plan('p', {row}, {row})"),
        format!("tide.relay_replay('p', {row}, {row})"),
        "tide.relay_replay_cancel('p')".to_owned(),
        format!("tide.relay_dlq_retry({letter})"),
        "tide.relay_dlq_retry_all('p')".to_owned(),
        format!("tide.relay_rewind('p', {row})"),
        format!("tide.relay_rewind('p', {row}, 'p')"),
        "tide.relay_accept_removed('p')".to_owned(),
        "tide.relay_delete('q')".to_owned(),
        "tide.outbox_drop('b')".to_owned(),
        "tide.relay_delete('p')".to_owned(),
    ];
    for call in &calls {
        run(&operator, &format!("SELECT {call}")).await;
    }
    run(&house.owner, again).await;
    let discard = "SELECT tide.relay_dlq_discard(letter_id, 'no') FROM tide.relay_dlq_list()";
    run(&operator, discard).await;
    run(
        &operator,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT tide.relay_rebase('a'); COMMIT",
    )
    .await;
    run(&operator, "SELECT tide.relay_pause('tenant', 'acme')").await;
    // What is written down of who did it is who did it, not in whose name it ran.
    let by: String = value(&house.owner, "SELECT paused_by FROM tide.relay_pause").await;
    assert_eq!(by, login);
}

#[tokio::test]
async fn an_operator_writes_no_table_and_reads_no_secret() {
    let house = with_pipeline().await;
    let (_, operator) = house.user("operator", "tide_operator").await;
    for denied in [
        "SELECT config FROM tide.relay_pipeline",
        "SELECT r FROM tide.relay_pipeline AS r",
        "SELECT payload FROM tide.outbox_message",
        "UPDATE tide.relay_pipeline SET enabled = false",
        "UPDATE tide.relay_position SET epoch = 9",
        "DELETE FROM tide.relay_dead_letter",
        "INSERT INTO tide.outbox_grant (outbox_id, grantee) VALUES (1, session_user::regrole)",
        "SELECT tide.outbox_publish('a', '1')",
        "SELECT tide.forget_position('p')",
        "SELECT tide.relay_set_enabled('p', false)",
        "SELECT tide.let_publish(10)",
        "SELECT * FROM tide.grant_roles()",
        "SELECT nextval('tide.relay_pipeline_version')",
        "CREATE TABLE tide.mine (a int)",
        "CREATE FUNCTION tide.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ] {
        assert_refused(&operator, denied, "42501", &["permission denied"]).await;
    }
    let payload: String = value(
        &operator,
        "SELECT payload ->> 'inside' FROM tide.relay_dead_letter",
    )
    .await;
    assert_eq!(payload, "payload", "letters are an operator's to judge");
}

#[tokio::test]
async fn a_reader_sees_how_things_stand_without_contents_and_secrets() {
    let house = with_pipeline().await;
    let (_, reader) = house.user("reader", "tide_reader").await;
    let status = json_value(&reader, "tide.outbox_status('a')").await;
    assert_eq!(status["pipelines"][0]["pipeline"], "p", "{status}");
    assert_eq!(status["retention"]["retention_hours"], 24, "{status}");
    let config = json_value(&reader, "tide.relay_get_config('p')").await;
    assert_eq!(config["config"]["secret_access_key"], "****", "{config}");
    assert_eq!(config["config"]["access_key_id"], "****4711", "{config}");
    for look in [
        "SELECT * FROM tide.relay_list_configs()",
        "SELECT * FROM tide.relay_pauses()",
        "SELECT * FROM tide.outbox_lag",
        "SELECT * FROM tide.relay_status",
        "SELECT * FROM tide.outbox_publisher",
        "SELECT * FROM tide.outbox_reader",
        "SELECT * FROM tide.relay_position",
        "SELECT * FROM tide.relay_lease",
        "SELECT pipeline, reason, state FROM tide.relay_dead_letter",
        "SELECT count(*) FROM tide.outbox_message",
    ] {
        run(&reader, look).await;
    }
    for denied in [
        "SELECT config FROM tide.relay_pipeline",
        "SELECT payload FROM tide.outbox_message",
        "SELECT dedup_key FROM tide.outbox_message",
        "SELECT payload FROM tide.relay_dead_letter",
        "SELECT message FROM tide.relay_dead_letter",
        "SELECT * FROM tide.relay_dlq_list()",
        "SELECT tide.relay_pause('pipeline', 'p')",
        "SELECT tide.relay_set_outbox('p', 'a', '{}')",
        "SELECT tide.outbox_publish('a', '1')",
        "SELECT tide.outbox_grant_publish('a', session_user)",
        "UPDATE tide.relay_lease SET owner = 'me'",
        "DELETE FROM tide.outbox_message",
    ] {
        assert_refused(&reader, denied, "42501", &["permission denied"]).await;
    }
}

/// Everything that these two roles can read, read, and searched for the secrets.
#[tokio::test]
async fn no_listing_shows_a_secret() {
    let house = with_pipeline().await;
    let all: String = value(&house.owner, "SELECT config::text FROM tide.relay_pipeline").await;
    assert!(SECRETS.iter().all(|secret| all.contains(secret)), "{all}");
    for role in ["tide_reader", "tide_operator"] {
        let (_, user) = house.user(role, role).await;
        let lists: Vec<String> = value(
            &user,
            "SELECT ARRAY(
                SELECT format('SELECT coalesce(string_agg(x::text, '' ''), '''') FROM (SELECT %s FROM tide.%I) AS x',
                    (SELECT string_agg(quote_ident(a.attname), ', ') FROM pg_attribute AS a
                    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                        AND has_column_privilege(c.oid, a.attnum, 'SELECT')), c.relname)
                FROM pg_class AS c WHERE c.relnamespace = 'tide'::regnamespace AND c.relkind IN ('r', 'v')
                    AND has_any_column_privilege(c.oid, 'SELECT'))
            || ARRAY['SELECT string_agg(c::text, '''') FROM tide.relay_list_configs() AS c',
                'SELECT tide.relay_get_config(''p'')::text', 'SELECT tide.outbox_status(''a'')::text']",
        )
        .await;
        assert!(lists.len() > 18, "{lists:?}");
        for list in lists {
            let shown: String = value(&user, &list).await;
            for secret in SECRETS {
                assert!(!shown.contains(secret), "{role}: {list}\n{shown}");
            }
        }
    }
}
