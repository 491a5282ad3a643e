//! Statements that must work, and statements that must be refused.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool, Row};

/// Runs statements; each must work.
pub(crate) async fn run(pool: &PgPool, sql: &str) {
    if let Err(error) = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await
    {
        panic!("{sql}\n{error:?}");
    }
}

/// The one value of a query.
pub(crate) async fn value<T>(pool: &PgPool, sql: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    sqlx::query(AssertSqlSafe(sql.to_owned()))
        .fetch_one(pool)
        .await
        .unwrap_or_else(|error| panic!("{sql}\n{error}"))
        .get(0)
}

/// The one value of a query that gives JSON.
pub(crate) async fn json_value(pool: &PgPool, sql: &str) -> Value {
    let text: String = value(pool, &format!("SELECT ({sql})::text")).await;
    serde_json::from_str(&text).expect("JSON")
}

/// Asserts that a statement is refused with this SQLSTATE and that message and
/// hint together have all of `words`.
#[track_caller]
pub(crate) fn assert_refused<'a>(
    pool: &'a PgPool,
    sql: &'a str,
    code: &'a str,
    words: &'a [&'a str],
) -> impl Future<Output = ()> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let error = match sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(pool)
            .await
        {
            Ok(_) => panic!("{caller}: accepted: {sql}"),
            Err(error) => error,
        };
        let error = error.as_database_error().expect("a database error");
        let error: &sqlx::postgres::PgDatabaseError = error.downcast_ref();
        let text = format!("{} | {}", error.message(), error.hint().unwrap_or(""));
        assert_eq!(error.code(), code, "{caller}: {sql}\n{text}");
        for word in words {
            assert!(
                text.contains(word),
                "{caller}: no {word:?} in: {text}\n{sql}"
            );
        }
    }
}
