//! `run --check` with real databases.

use serde_json::json;

use super::*;

fn check(text: &str, more: &[&str]) -> Said {
    let folder = Folder::new();
    let file = folder.file("tidegate.toml", text);
    let mut arguments = vec!["run", "--check", "--config", file.to_str().expect("text")];
    arguments.extend(more);
    tidegate(&arguments, &[])
}

fn database_of(name: &str) -> String {
    let url = database::server().url_as(database::OWNER, name);
    format!("[[databases]]\nname = \"{name}\"\nurl = \"{url}\"\n")
}

fn pipeline_of(database: &str, name: &str, outbox: &str) -> String {
    format!(
        "[[pipelines]]\nname = \"{name}\"\noutbox = \"{outbox}\"\ndatabase = \"{database}\"\n\
         stream_name = \"s\"\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_it_finds_and_starts_nothing() {
    let name = database::migrated_database().await;
    let pool = database::pool(&name);
    for statement in [
        "SELECT tide.outbox_create('events')",
        "SELECT tide.relay_set_outbox('good', 'events', 'g', \
         '{\"sink_type\": \"kinesis\", \"stream_name\": \"s\"}')",
        "SELECT tide.relay_set_outbox('twice', 'events', 'g', \
         '{\"sink_type\": \"kinesis\", \"stream_name\": \"s\"}')",
    ] {
        sqlx::query(statement).execute(&pool).await.expect("done");
    }
    let text = [
        database_of(&name),
        pipeline_of(&name, "twice", "events"),
        pipeline_of(&name, "lost", "nowhere"),
    ]
    .concat();
    let said = check(&text, &[]);
    assert_eq!(said.code, 0, "{} {}", said.out, said.err);
    for expected in [
        "the configuration is good: 1 database(s), 2 pipeline(s) in the file\n",
        ", 1 outbox(es), 1 pipeline(s) to run, 0 disabled, 2 that cannot run\n",
        "/lost cannot run: there is no outbox \"nowhere\" in the database; expected one of: events",
        "/twice cannot run: it is defined in the configuration file and in the database",
    ] {
        assert!(
            said.out.contains(expected),
            "{expected} is not in {}",
            said.out
        );
    }
    let json = check(&text, &["--output", "json"]).json();
    assert_eq!(json["ok"], true);
    assert_eq!(json["databases"][0]["outboxes"], json!(["events"]));
    assert_eq!(json["databases"][0]["pipelines_to_run"], 1);
    let leases: i64 = sqlx::query_scalar("SELECT count(*) FROM tide.relay_lease")
        .fetch_one(&pool)
        .await
        .expect("a number");
    assert_eq!(leases, 0, "nothing was claimed");
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_that_cannot_be_used_are_named_and_hide_no_other() {
    let (good, empty) = (
        database::migrated_database().await,
        database::empty_database().await,
    );
    let nowhere =
        "[[databases]]\nname = \"nowhere\"\nurl = \"postgres://u:hunter2@127.0.0.1:1/d\"\n";
    let text = [database_of(&good), database_of(&empty), nowhere.to_owned()].concat();
    let said = check(&text, &[]);
    assert_eq!(said.code, 1, "{} {}", said.out, said.err);
    for expected in [
        format!("database \"{good}\": PostgreSQL "),
        format!("database \"{empty}\" cannot be used: "),
        "database \"nowhere\" cannot be used: ".to_owned(),
        "tidegate migrate".to_owned(),
    ] {
        assert!(
            said.out.contains(&expected),
            "{expected} is not in {}",
            said.out
        );
    }
    assert!(!said.out.contains("hunter2"), "{}", said.out);
    let json = check(&text, &["--output", "json"]).json();
    let oks: Vec<&Value> = json["databases"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["ok"])
        .collect();
    assert_eq!(oks, [true, false, false]);
    assert_eq!(json["ok"], false);
}

#[test]
fn a_bad_file_is_refused_before_any_database_is_asked() {
    let said = check("[admin]\nlisten = 1\n", &[]);
    assert_eq!(said.code, 78);
    assert!(said.err.contains("line 2: admin.listen"), "{}", said.err);
}
