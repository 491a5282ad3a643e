//! Which database errors pass by themselves and which need somebody to act.

use crate::core::ports::StoreError;

impl From<sqlx::Error> for StoreError {
    /// Errors of the connection and of the server's condition (it is stopping,
    /// full, read-only, too busy, or gave this statement up for another) are
    /// [`StoreError::Unavailable`]; what the database refuses by rule is
    /// [`StoreError::Refused`].
    fn from(error: sqlx::Error) -> Self {
        let sqlx::Error::Database(answer) = &error else {
            let passes = matches!(
                error,
                sqlx::Error::Io(_)
                    | sqlx::Error::Tls(_)
                    | sqlx::Error::Protocol(_)
                    | sqlx::Error::PoolTimedOut
                    | sqlx::Error::PoolClosed
                    | sqlx::Error::WorkerCrashed
            );
            let text = error.to_string();
            return if passes {
                Self::Unavailable(text)
            } else {
                Self::Refused(text)
            };
        };
        let code = answer.code().unwrap_or_default().into_owned();
        let text = format!("{} ({code})", answer.message());
        if passes_by_itself(&code) {
            return Self::Unavailable(with_hint(text, condition_hint(&code, answer.message())));
        }
        Self::Refused(with_hint(text, hint(&code)))
    }
}

/// Whether a SQLSTATE tells of a condition that ends without a change by the
/// user. Classes as the manual's appendix "PostgreSQL Error Codes" lists them.
fn passes_by_itself(code: &str) -> bool {
    let by_class = [
        "08", // connection exception
        "40", // transaction rollback: serialization failure, deadlock
        "53", // insufficient resources: disk full, too many connections
        "57", // operator intervention: shutdown, starting up, statement cancelled
        "58", // system error outside the server
        "XX", // internal error
    ];
    let by_code = [
        READ_ONLY, // read-only: a standby, for as long as a failover takes
        "25P03",   // idle in transaction for too long: this process was stalled
        "55P03",   // lock not available in time
        "26000",   // prepared statement gone: a pooler switched the connection
        "0A000",   // cached plan no longer fits the table: the next try makes a new one
    ];
    by_class.iter().any(|class| code.starts_with(class)) || by_code.contains(&code)
}

/// Read-only transactions are refused writes with this.
const READ_ONLY: &str = "25006";

/// Whether an error made here comes of how its session was set up, so that a new
/// session may do better.
pub(super) fn is_of_the_session(error: &StoreError) -> bool {
    match error {
        StoreError::Unavailable(text) => text.contains(&format!("({READ_ONLY})")),
        StoreError::Refused(_) => false,
    }
}

fn with_hint(text: String, hint: Option<&str>) -> String {
    hint.map_or_else(|| text.clone(), |hint| format!("{text}: {hint}"))
}

/// What somebody can do about a condition; without it the relay just waits. The
/// message may be in another language: only what has one code for several causes
/// is told apart by it.
fn condition_hint(code: &str, message: &str) -> Option<&'static str> {
    match code {
        "53100" => {
            Some("the server's disk is full; free or add space, the relay goes on by itself")
        }
        "53200" => Some("the server is out of memory; the relay goes on by itself"),
        "53300" => Some(
            "all connections of the server, database or role are in use; raise max_connections or end idle \
             sessions, the relay goes on by itself",
        ),
        "53400" => {
            Some("a limit of the server's configuration is reached, such as temp_file_limit")
        }
        READ_ONLY => Some(
            "the database is read-only: default_transaction_read_only is on, or this is a standby; positions \
             cannot be written, so nothing is sent",
        ),
        "55P03" => Some(
            "another session holds a lock on a table of schema tide, see pg_locks and pg_stat_activity; the \
             relay goes on by itself",
        ),
        "57014" if message.contains("statement timeout") => Some(
            "the server is too slow, or statement_timeout of the role or database is too short; it must leave room \
             for about 0.1 s per million waiting messages",
        ),
        "57P03" => {
            Some("the server is starting, stopping or recovering; the relay goes on by itself")
        }
        _ => None,
    }
}

fn hint(code: &str) -> Option<&'static str> {
    let missing = ["3F000", "42P01", "42703", "42883", "42704"];
    if missing.contains(&code) {
        return Some("the schema is missing or old, run `tidegate migrate`");
    }
    match code {
        "42501" => Some(
            "make the relay's role a member of tide_relay (GRANT tide_relay TO ...), or run `tidegate migrate` once \
             more if it is one: docs/security.md says how the roles are made, `tidegate doctor` what is missing",
        ),
        "28P01" | "28000" => Some("check user and password in the database URL and pg_hba.conf"),
        "3D000" => Some("create the database or correct the database URL"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_conditions_from_refusals() {
        for code in [
            "08006", "40001", "53100", "53300", "57014", "57P01", "57P03", "25006", "55P03",
        ] {
            assert!(passes_by_itself(code), "{code}");
        }
        for code in [
            "42P01", "42501", "3F000", "28P01", "22023", "23505", "42883",
        ] {
            assert!(!passes_by_itself(code), "{code}");
        }
        assert!(hint("42P01").is_some_and(|hint| hint.contains("tidegate migrate")));
    }

    #[test]
    fn conditions_say_what_to_do() {
        let hint = |code| condition_hint(code, "canceling statement due to statement timeout");
        for (code, word) in [
            ("53100", "disk"),
            ("53300", "max_connections"),
            ("25006", "read-only"),
            ("55P03", "pg_locks"),
            ("57014", "statement_timeout"),
        ] {
            assert!(hint(code).is_some_and(|hint| hint.contains(word)), "{code}");
        }
        assert_eq!(
            condition_hint("57014", "canceling statement due to user request"),
            None
        );
    }

    #[test]
    fn a_pool_without_a_free_connection_is_a_condition() {
        let error = StoreError::from(sqlx::Error::PoolTimedOut);
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
}
