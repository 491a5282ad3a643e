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
            return Self::Unavailable(text);
        }
        match hint(&code) {
            Some(hint) => Self::Refused(format!("{text}: {hint}")),
            None => Self::Refused(text),
        }
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
        "25006", // read-only: a standby, for as long as a failover takes
        "25P03", // idle in transaction for too long: this process was stalled
        "55P03", // lock not available in time
        "26000", // prepared statement gone: a pooler switched the connection
        "0A000", // cached plan no longer fits the table: the next try makes a new one
    ];
    by_class.iter().any(|class| code.starts_with(class)) || by_code.contains(&code)
}

fn hint(code: &str) -> Option<&'static str> {
    let missing = ["3F000", "42P01", "42703", "42883", "42704"];
    if missing.contains(&code) {
        return Some("the schema is missing or old, run `tidegate migrate`");
    }
    match code {
        "42501" => Some(
            "grant the relay's role usage of schema tide, select on its tables, insert and update on tide.relay_lease, tide.relay_position and tide.relay_dead_letter",
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
    fn a_pool_without_a_free_connection_is_a_condition() {
        let error = StoreError::from(sqlx::Error::PoolTimedOut);
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
}
