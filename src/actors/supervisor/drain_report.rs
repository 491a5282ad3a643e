//! What a shutdown leaves behind.

use crate::config::desired::PipelineKey;

/// Pipelines that one line names; of more it says how many there are.
const NAMED: usize = 20;

/// How a shutdown went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DrainReport {
    /// Pipelines that settled all they had sent and gave their leases back.
    pub drained: usize,
    /// Pipelines that were cut off, by database and name: some of their rows will
    /// be sent again.
    pub left: Vec<LeftBehind>,
}

/// What is left of a pipeline that was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftBehind {
    /// The pipeline.
    pub pipeline: PipelineKey,
    /// Rows that were sent and are not settled, where that is known.
    pub rows: Option<u64>,
    /// Why it was cut off.
    pub why: String,
}

impl DrainReport {
    /// Rows in flight of all that were cut off.
    #[must_use]
    pub fn rows_left(&self) -> u64 {
        self.left.iter().filter_map(|one| one.rows).sum()
    }

    /// Those that were cut off, for one line of a log.
    #[must_use]
    pub fn names_left(&self) -> String {
        let named = self.left.iter().take(NAMED);
        let mut names: Vec<String> = named
            .map(|one| match one.rows {
                Some(rows) => format!("{} ({rows} rows in flight: {})", one.pipeline, one.why),
                None => format!("{} ({})", one.pipeline, one.why),
            })
            .collect();
        if let Some(more) = self.left.len().checked_sub(NAMED).filter(|more| *more > 0) {
            names.push(format!("and {more} more"));
        }
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(pipelines: usize) -> DrainReport {
        let left = |number| LeftBehind {
            pipeline: PipelineKey {
                database: "default".into(),
                name: format!("p{number}").into(),
            },
            rows: Some(7),
            why: "the grace is over".to_owned(),
        };
        DrainReport {
            drained: 0,
            left: (0..pipelines).map(left).collect(),
        }
    }

    #[test]
    fn what_is_left_is_named_up_to_a_bound() {
        assert_eq!(report(0).names_left(), "");
        let one = report(1).names_left();
        assert!(
            one.contains("p0") && one.ends_with("(7 rows in flight: the grace is over)"),
            "{one}"
        );
        assert!(!report(NAMED).names_left().contains("more"));
        let mut dead = report(1);
        dead.left[0].rows = None;
        assert!(dead.names_left().ends_with("p0 (the grace is over)"));
        let many = report(NAMED + 3);
        assert!(many.names_left().ends_with(", and 3 more"));
        assert_eq!(many.rows_left(), 7 * (NAMED as u64 + 3));
    }
}
