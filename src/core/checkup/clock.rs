//! Whether clocks agree.

use super::Finding;

/// The name of the check.
pub const CHECK: &str = "clock";

/// A difference to a database's clock above this shows in what people compare: log
/// lines with `created_at`, the age of rows with the time of their records.
const DATABASE_SECONDS: f64 = 5.0;

/// AWS accepts signatures that are 5 minutes off; above a fifth of that a clock is
/// on its way out.
const AWS_SECONDS: i64 = 60;

/// What AWS accepts, in seconds.
const AWS_ACCEPTS: i64 = 300;

/// `ahead`: by how many seconds this machine's clock is ahead of the database's;
/// `unsure`: the round trip, of which half may be in it.
#[must_use]
pub fn of_database(ahead: f64, unsure: f64) -> Finding {
    let difference = (ahead.abs() - unsure / 2.0).max(0.0);
    let message = format!(
        "this machine's clock is {:.3} s {} the database's",
        ahead.abs(),
        side(ahead < 0.0)
    );
    if difference > DATABASE_SECONDS {
        let fix = "set both machines' clocks by NTP: leases go by the database's alone and hold, but \
                   created_at, ages of rows and log lines do not fit together";
        return Finding::warn(CHECK, message, fix);
    }
    Finding::ok(CHECK, message)
}

/// `ahead`: by how many seconds this machine's clock is ahead of the service's, if
/// an answer told the time.
#[must_use]
pub fn of_service(ahead: Option<i64>) -> Finding {
    let Some(ahead) = ahead else {
        return Finding::skip(CHECK, "no answer of the service told the time");
    };
    let message = format!(
        "this machine's clock is {} s {} the service's",
        ahead.unsigned_abs(),
        side(ahead < 0)
    );
    if ahead.abs() > AWS_ACCEPTS {
        let fix = "set the machine's clock (NTP): signatures that are more than 5 minutes off are \
                   refused; the relay corrects itself at the price of one refused call per client";
        return Finding::fail(CHECK, message, fix);
    }
    if ahead.abs() > AWS_SECONDS {
        let fix =
            "set the machine's clock (NTP) before it is 5 minutes off: signatures are refused then";
        return Finding::warn(CHECK, message, fix);
    }
    Finding::ok(CHECK, message)
}

const fn side(is_behind: bool) -> &'static str {
    if is_behind { "behind" } else { "ahead of" }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_databases_clock_may_differ_by_five_seconds_and_the_way() {
        assert_eq!(of_database(0.2, 0.01).level, Level::Ok);
        assert_eq!(of_database(-4.9, 0.0).level, Level::Ok);
        assert_eq!(of_database(-5.9, 2.0).level, Level::Ok);
        assert_eq!(of_database(-6.1, 2.0).level, Level::Warn);
        assert!(of_database(-7.0, 0.0).message.contains("7.000 s behind"));
    }

    #[test]
    fn the_services_clock_may_differ_by_five_minutes() {
        let levels = [Some(0), Some(-60), Some(61), Some(-300), Some(301), None]
            .map(|ahead| of_service(ahead).level);
        assert_eq!(
            levels,
            [
                Level::Ok,
                Level::Ok,
                Level::Warn,
                Level::Warn,
                Level::Fail,
                Level::Skip
            ]
        );
    }
}
