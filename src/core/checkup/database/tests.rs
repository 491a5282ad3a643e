use super::super::Level;
use super::*;

#[track_caller]
fn check(found: &Finding, level: Level, message: &str, fix: &str) {
    assert_eq!(found.level, level, "{found:?}");
    assert!(found.message.contains(message), "{found:?}");
    let given = found.fix.as_deref().unwrap_or_default();
    assert!(given.contains(fix), "{found:?}");
    let needs_fix = level >= Level::Warn;
    assert_eq!(found.fix.is_some(), needs_fix, "{found:?}");
}

#[test]
fn a_server_is_new_enough_and_a_primary() {
    let facts = |number, is_standby| ServerFacts {
        number,
        version: "x.y".to_owned(),
        is_standby,
        role: "relay".to_owned(),
    };
    check(&server(&facts(130_000, false)), Level::Ok, "\"relay\"", "");
    check(
        &server(&facts(120_017, false)),
        Level::Fail,
        "x.y is too old",
        "upgrade",
    );
    check(
        &server(&facts(180_000, true)),
        Level::Fail,
        "standby",
        "at the primary",
    );
}

#[test]
fn a_schema_is_there_and_not_older() {
    check(
        &schema(None, 9),
        Level::Fail,
        "not installed",
        "tidegate migrate",
    );
    check(
        &schema(Some(8), 9),
        Level::Fail,
        "8, this program needs 9",
        "tidegate migrate",
    );
    check(&schema(Some(9), 9), Level::Ok, "version 9", "");
    check(&schema(Some(10), 9), Level::Ok, "newer", "");
}

#[test]
fn missing_privileges_come_with_their_grants() {
    let missing = ["DELETE on tide.outbox_message".to_owned()];
    let grants = ["GRANT DELETE ON tide.outbox_message TO relay".to_owned()];
    check(
        &privileges("relay", 30, &missing, &grants),
        Level::Fail,
        "lacks DELETE",
        "GRANT DELETE",
    );
    check(&privileges("relay", 30, &[], &[]), Level::Ok, "all 30", "");
}

#[test]
fn indexes_are_there_and_valid() {
    let index = |name: &str, is_valid| Index {
        name: name.to_owned(),
        is_valid,
    };
    let needed = [("a", "CREATE INDEX a")];
    check(
        &indexes(&[index("a", true), index("b", true)], &needed),
        Level::Ok,
        "all 2",
        "",
    );
    check(
        &indexes(&[index("b", true)], &needed),
        Level::Fail,
        "tide.a is missing",
        "CREATE INDEX a",
    );
    check(
        &indexes(&[index("a", false)], &needed),
        Level::Fail,
        "tide.a is invalid",
        "REINDEX INDEX CONCURRENTLY tide.a",
    );
    check(
        &indexes(&[index("a", true), index("a_ccnew", false)], &needed),
        Level::Fail,
        "a_ccnew",
        "DROP INDEX CONCURRENTLY tide.a_ccnew",
    );
}

#[test]
fn an_old_transaction_is_named_with_its_end() {
    let facts = |seconds, pid, sees_all: bool| TransactionFacts {
        oldest: Some(OldTransaction {
            pid,
            who: "app, idle in transaction".to_owned(),
            seconds,
            at_least: !sees_all,
        }),
        sees_all,
    };
    check(
        &transactions(&TransactionFacts::default(), 300.0),
        Level::Ok,
        "pg_read_all_stats",
        "",
    );
    check(
        &transactions(&facts(300.0, Some(7), true), 300.0),
        Level::Ok,
        "5 min 0 s",
        "",
    );
    check(
        &transactions(&facts(301.0, Some(7), true), 300.0),
        Level::Warn,
        "idle in transaction",
        "pg_terminate_backend(7)",
    );
    check(
        &transactions(&facts(9_000.0, None, false), 300.0),
        Level::Warn,
        "at least 2 h 30 min",
        "pg_stat_activity",
    );
}

#[test]
fn forgotten_prepared_transactions_and_slots_are_named() {
    let forgotten = PreparedTransaction {
        gid: "it's".to_owned(),
        database: "app".to_owned(),
        seconds: 4_000.0,
    };
    check(&prepared(&[], 300.0), Level::Ok, "0 open", "");
    check(
        &prepared(std::slice::from_ref(&forgotten), 5_000.0),
        Level::Ok,
        "1",
        "",
    );
    check(
        &prepared(&[forgotten], 300.0),
        Level::Warn,
        "1 h 6 min",
        "ROLLBACK PREPARED 'it''s'",
    );

    let slot = |active, xmin_age, wal: &str| Slot {
        name: "s".to_owned(),
        active,
        xmin_age,
        wal_status: Some(wal.to_owned()),
    };
    check(&slots(&[slot(true, Some(9), "lost")]), Level::Ok, "1", "");
    check(&slots(&[slot(false, None, "reserved")]), Level::Ok, "1", "");
    check(
        &slots(&[slot(false, Some(90_000), "reserved")]),
        Level::Warn,
        "90000 transactions",
        "pg_drop_replication_slot('s')",
    );
    check(
        &slots(&[slot(false, None, "unreserved")]),
        Level::Warn,
        "log",
        "pg_drop_replication_slot",
    );
}

#[test]
fn vacuum_is_on_and_not_far_behind() {
    let facts = |dead, inserted, vacuumed| VacuumFacts {
        table: "outbox_message".to_owned(),
        is_off: false,
        dead: (dead, 100.0),
        inserted: (inserted, 1_000.0),
        vacuumed,
    };
    let one = |dead, inserted, vacuumed| vacuum(true, &[facts(dead, inserted, vacuumed)]);
    let long_ago = Some(700.0);
    check(&one(200.0, 2_000.0, long_ago), Level::Ok, "on", "");
    check(&one(9_000.0, 90_000.0, Some(599.0)), Level::Ok, "on", "");
    check(&one(1_000.0, 10_000.0, None), Level::Ok, "on", "");
    let statement = "VACUUM (ANALYZE) tide.outbox_message";
    check(
        &one(201.0, 0.0, long_ago),
        Level::Warn,
        "201 dead",
        statement,
    );
    check(
        &one(0.0, 2_001.0, long_ago),
        Level::Warn,
        "2001 ins",
        "VACUUM",
    );
    check(&one(0.0, 10_001.0, None), Level::Warn, "never", statement);
    let by_inserts_off = VacuumFacts {
        inserted: (1e9, -1.0),
        ..facts(0.0, 0.0, long_ago)
    };
    check(&vacuum(true, &[by_inserts_off]), Level::Ok, "on", "");
    check(&vacuum(false, &[]), Level::Warn, "server's", "ALTER SYSTEM");
    let off = VacuumFacts {
        is_off: true,
        ..facts(0.0, 0.0, None)
    };
    let fix = "ALTER TABLE tide.outbox_message RESET (autovacuum_enabled)";
    check(
        &vacuum(true, &[off]),
        Level::Warn,
        "tide.outbox_message",
        fix,
    );
}

#[test]
fn shared_sessions_need_their_setting() {
    check(&sessions(Sessions::Own, true), Level::Ok, "session", "");
    check(&sessions(Sessions::Own, false), Level::Ok, "would do", "");
    check(
        &sessions(Sessions::Shared, false),
        Level::Ok,
        "transaction mode",
        "",
    );
    check(
        &sessions(Sessions::Shared, true),
        Level::Fail,
        "PgBouncer",
        "prepared_statements = false",
    );
}
