//! What happened lately, on the board: restarts, reloads and parked rows.
//!
//! Each kind has room of its own, so that a flood of one pushes out none of another; and
//! what repeats itself is counted, not listed. An event names actors, pipelines and
//! causes: never a key, a row's id, a payload or the text of an error.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::StatusBoard;
use super::config::seconds;

/// The most events of one kind that are remembered.
pub const MOST_OF_A_KIND: usize = 50;

/// What happens again within this time of the last one is the same event.
const SAME_WITHIN: Duration = Duration::from_secs(60);

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventStatus {
    /// When it happened last, in seconds since 1970.
    pub at: f64,
    /// When it happened first.
    pub first_at: f64,
    /// How often in between, both included; of `parked`, how many rows.
    pub count: u64,
    /// What it is.
    #[serde(flatten)]
    pub what: Happened,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Happened {
    /// An actor ended and is started again.
    Restart {
        /// Who it is, such as `reader of default/events`.
        subject: String,
        /// Its kind, as metrics name it.
        actor: &'static str,
        /// How it ended, as metrics name it.
        cause: &'static str,
        /// Whose pipeline it reads, where it reads one.
        tenant: Option<Arc<str>>,
    },
    /// A reload ended.
    Reload {
        /// The hash of the configuration that runs since.
        subject: String,
        /// `taken` or `refused`.
        cause: &'static str,
    },
    /// Rows became dead letters.
    Parked {
        /// The pipeline, such as `default/events`.
        subject: String,
        /// Why, as letters and metrics name it.
        cause: &'static str,
        /// Whose pipeline it is.
        tenant: Arc<str>,
    },
}

/// The events of a board.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// By rising time, one ring of each kind.
    rings: [VecDeque<EventStatus>; 3],
}

// === impl Events ===

impl Happened {
    const fn ring(&self) -> usize {
        match self {
            Self::Restart { .. } => 0,
            Self::Reload { .. } => 1,
            Self::Parked { .. } => 2,
        }
    }
}

impl Events {
    pub(super) fn add(&mut self, what: Happened, count: u64, at: SystemTime) {
        let now = seconds(at);
        let ring = &mut self.rings[what.ring()];
        let is_same =
            |event: &EventStatus| event.what == what && now - event.at < SAME_WITHIN.as_secs_f64();
        let known = ring.iter().rposition(is_same);
        let before = known.and_then(|place| ring.remove(place));
        if ring.len() == MOST_OF_A_KIND {
            ring.pop_front();
        }
        ring.push_back(EventStatus {
            at: now,
            first_at: before.as_ref().map_or(now, |event| event.first_at),
            count: count + before.map_or(0, |event| event.count),
            what,
        });
    }

    /// All of them, the newest first.
    pub(super) fn shown(&self) -> Vec<EventStatus> {
        let mut all: Vec<EventStatus> = self.rings.iter().flatten().cloned().collect();
        all.sort_by(|one, other| other.at.total_cmp(&one.at));
        all
    }
}

// === impl StatusBoard ===

impl StatusBoard {
    /// An actor ended and is started again.
    pub fn actor_restarted(
        &self,
        subject: String,
        actor: &'static str,
        cause: &'static str,
        tenant: Option<Arc<str>>,
    ) {
        let what = Happened::Restart {
            subject,
            actor,
            cause,
            tenant,
        };
        self.write().events.add(what, 1, SystemTime::now());
    }

    /// Rows of a pipeline became dead letters, so many for each of these reasons.
    pub fn rows_parked(&self, database: &Arc<str>, name: &Arc<str>, rows: &[(&'static str, u64)]) {
        let mut entries = self.write();
        let key = (Arc::clone(database), Arc::clone(name));
        let Some(pipeline) = entries.pipelines.get_mut(&key) else {
            return;
        };
        pipeline.parked_rows += rows.iter().map(|(_, rows)| rows).sum::<u64>();
        let tenant = Arc::clone(&pipeline.tenant);
        for (cause, rows) in rows {
            let what = Happened::Parked {
                subject: format!("{database}/{name}"),
                cause,
                tenant: Arc::clone(&tenant),
            };
            entries.events.add(what, *rows, SystemTime::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::PipelineStatus;
    use super::*;
    use std::time::UNIX_EPOCH;

    fn restart(number: u64) -> Happened {
        Happened::Restart {
            subject: format!("reader of default/p{number}"),
            actor: "outbox_reader",
            cause: "panic",
            tenant: None,
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn what_repeats_itself_is_counted() {
        let mut events = Events::default();
        events.add(restart(1), 1, at(10));
        events.add(restart(2), 1, at(20));
        events.add(restart(1), 1, at(30));
        events.add(restart(1), 1, at(89));
        events.add(restart(2), 1, at(100));
        let shown = events.shown();
        let times: Vec<(f64, f64, u64)> = shown
            .iter()
            .map(|event| (event.first_at, event.at, event.count))
            .collect();
        // The second of p2 came too late to be the same.
        assert_eq!(times, [(100.0, 100.0, 1), (10.0, 89.0, 3), (20.0, 20.0, 1)]);
    }

    #[test]
    fn a_flood_of_one_kind_pushes_out_none_of_another() {
        let mut events = Events::default();
        let reload = Happened::Reload {
            subject: "abc".to_owned(),
            cause: "taken",
        };
        events.add(reload.clone(), 1, at(1));
        for number in 0..1000 {
            events.add(restart(number), 1, at(2 + number));
        }
        let shown = events.shown();
        assert_eq!(shown.len(), MOST_OF_A_KIND + 1);
        assert_eq!(shown[0].what, restart(999));
        assert_eq!(shown[MOST_OF_A_KIND].what, reload);
    }

    #[test]
    fn parked_rows_are_shown_with_their_tenant_and_nothing_of_theirs() {
        let board = StatusBoard::new("n".into());
        let [name, database, outbox, stream, tenant] =
            ["p", "default", "events", "s", "acme"].map(Arc::<str>::from);
        board.rows_parked(&database, &name, &[("key_empty", 1)]);
        assert_eq!(board.status().events, []);
        board.set_pipeline(PipelineStatus::starting(
            Arc::clone(&name),
            Arc::clone(&database),
            outbox,
            stream,
            tenant,
        ));
        board.rows_parked(&database, &name, &[("key_empty", 2), ("key_too_long", 1)]);
        let status = board.status();
        assert_eq!(status.pipelines[0].parked_rows, 3);
        let mut shown = serde_json::to_value(&status.events).expect("JSON");
        for event in shown.as_array_mut().expect("a list") {
            let event = event.as_object_mut().expect("an event");
            assert_eq!(event.remove("at"), event.remove("first_at"));
        }
        let parked = |cause: &str, count: u64| {
            serde_json::json!({
                "kind": "parked", "subject": "default/p", "cause": cause, "tenant": "acme",
                "count": count,
            })
        };
        let mut causes = [parked("key_empty", 2), parked("key_too_long", 1)];
        causes.sort_by_key(|event| event["count"].as_u64());
        let mut shown: Vec<_> = shown.as_array().expect("a list").clone();
        shown.sort_by_key(|event| event["count"].as_u64());
        assert_eq!(shown, causes);
    }
}
