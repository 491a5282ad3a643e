//! Whether a stream's shards take what its outboxes publish.
//!
//! The rate is that of the last minutes, averaged: bursts are what outboxes are
//! there to hold. Keys do not spread evenly, and a single key never leaves its shard,
//! so a stream that is full on average is too small in fact: a warning comes at four
//! fifths.

use super::Finding;

/// The name of the check.
pub const CHECK: &str = "capacity";

/// The part of the shards' budget that may be needed on average without a warning.
const COMFORTABLE: f64 = 0.8;

/// What outboxes publish.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rate {
    /// Rows a second.
    pub rows: f64,
    /// Bytes a second: data and keys, before any compression.
    pub bytes: f64,
}

/// What a stream's shards take together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shards {
    /// How many are open.
    pub open: usize,
    /// Records a second that one takes of the relay, its fraction applied.
    pub records: f64,
    /// Bytes a second that one takes of the relay, its fraction applied.
    pub bytes: f64,
    /// Whether the service adds shards by itself (on-demand).
    pub grows: bool,
    /// Whether several rows travel in one record, so that records are not what runs
    /// out.
    pub aggregated: bool,
}

impl std::ops::Add for Rate {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// Judges a rate by what the shards take.
#[must_use]
pub fn judge(rate: Rate, shards: Shards) -> Finding {
    let by_rows = if shards.aggregated {
        0.0
    } else {
        rate.rows / shards.records
    };
    let by_bytes = rate.bytes / shards.bytes;
    let needed = by_rows.max(by_bytes);
    let open = shards.open;
    // A stream always has a shard.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a stream has some thousand shards at most"
    )]
    let part = needed / open.max(1) as f64;
    let message = format!(
        "{open} open shard(s); the outboxes published {:.1} rows/s and {:.1} KiB/s in the last minutes, \
         {:.0} % of what the shards take",
        rate.rows,
        rate.bytes / 1024.0,
        part * 100.0
    );
    if part <= COMFORTABLE {
        return Finding::ok(CHECK, message);
    }
    if shards.grows {
        return Finding::ok(
            CHECK,
            format!("{message}; the stream is on-demand and adds shards by itself"),
        );
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few shards, above zero"
    )]
    let wanted = (needed / COMFORTABLE).ceil() as u64;
    let scarce = if by_rows > by_bytes {
        "records, not bytes, are what runs out"
    } else {
        "bytes are what runs out"
    };
    let fix = format!(
        "raise it to {wanted} shards (aws kinesis update-shard-count --scaling-type UNIFORM_SCALING \
         --target-shard-count {wanted} --stream-name ...), or make it on-demand; {scarce}"
    );
    if part > 1.0 {
        return Finding::fail(CHECK, message, fix);
    }
    Finding::warn(CHECK, message, fix)
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn shards(open: usize) -> Shards {
        Shards {
            open,
            records: 1_000.0,
            bytes: 1_048_576.0,
            grows: false,
            aggregated: false,
        }
    }

    #[track_caller]
    fn check(rows: f64, bytes: f64, shards: Shards, level: Level, fix: &str) {
        let found = judge(Rate { rows, bytes }, shards);
        assert_eq!(found.level, level, "{found:?}");
        let given = found.fix.as_deref().unwrap_or_default();
        assert!(given.contains(fix), "{found:?}");
    }

    #[test]
    fn the_scarcer_of_records_and_bytes_decides() {
        check(0.0, 0.0, shards(1), Level::Ok, "");
        check(799.0, 1_000.0, shards(1), Level::Ok, "");
        check(850.0, 1_000.0, shards(1), Level::Warn, "to 2 shards");
        check(3_000.0, 1_000.0, shards(2), Level::Fail, "to 4 shards");
        let bytes = 2.0 * 1_048_576.0;
        check(10.0, bytes, shards(2), Level::Warn, "bytes are what");
        check(10.0, bytes, shards(4), Level::Ok, "");
    }

    #[test]
    fn what_grows_or_aggregates_is_judged_otherwise() {
        let grows = Shards {
            grows: true,
            ..shards(1)
        };
        check(5_000.0, 0.0, grows, Level::Ok, "");
        let aggregated = Shards {
            aggregated: true,
            ..shards(1)
        };
        check(5_000.0, 1_000.0, aggregated, Level::Ok, "");
        check(5_000.0, 2e6, aggregated, Level::Fail, "bytes are what");
    }
}
