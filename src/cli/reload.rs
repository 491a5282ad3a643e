//! SIGHUP: the configuration is read again, judged as a whole, and taken or
//! refused as a whole.
//!
//! *asked* -> *judged* (file and environment are read, away from the actors) ->
//! *refused* (each mistake is logged, the configuration before goes on), or
//! *handed* to the supervisor in one message -> *taken*.
//!
//! - One reload is under way at a time. Whoever asks meanwhile, however often, gets
//!   one more after it: it sees what was written by then.
//! - From the moment it is handed over it is the configuration of the process:
//!   should the supervisor die, the one that is built anew has it. A reload that
//!   was not answered is begun again.

use std::future::pending;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use actix::Addr;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};

use super::Failure;
use super::logging::Filter;
use super::run::{Root, connect, timeouts};
use crate::actors::messages::Reload;
use crate::actors::supervisor::{Database, LAST_ACTS, Supervisor};
use crate::config::desired::{Catalogs, Desired};
use crate::config::environment::Environment;
use crate::config::plan::{DatabaseStep, Plan, SettingChange, Step, diff};
use crate::config::problem::ConfigError;
use crate::config::settings::Settings;

/// Where the configuration comes from, and which one the process has.
#[derive(Debug, Clone)]
pub(super) struct Configuration {
    file: Option<PathBuf>,
    current: Arc<Mutex<Arc<Settings>>>,
}

/// The reload under way, and whether another is wanted after it.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    under_way: Option<JoinHandle<Outcome>>,
    again: bool,
}

/// How a reload ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The supervisor has it.
    Taken(Plan),
    /// All that is wrong with it.
    Refused(Vec<String>),
    /// The supervisor has died, or drains.
    Unheard,
}

/// A configuration that a running relay can take.
struct Judged {
    settings: Arc<Settings>,
    databases: Vec<Database>,
    filter: Filter,
    plan: Plan,
}

// === impl Configuration ===

impl Configuration {
    /// What the process starts with.
    pub(super) fn load(file: Option<PathBuf>) -> Result<Self, Failure> {
        let settings = Settings::load(file.as_deref(), Environment::of_process())?;
        Ok(Self {
            file,
            current: Arc::new(Mutex::new(Arc::new(settings))),
        })
    }

    /// The one that counts.
    pub(super) fn current(&self) -> Arc<Settings> {
        // Nothing panics while it is locked.
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, settings: Arc<Settings>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Reads it anew, and finds everything that is wrong with it. Files are read,
    /// nothing is connected to.
    fn judge(&self) -> Result<Judged, Vec<String>> {
        let settings = Settings::load(self.file.as_deref(), Environment::of_process());
        let settings = Arc::new(settings.map_err(|error| match error {
            ConfigError::Invalid(problems) => problems.iter().map(ToString::to_string).collect(),
            error @ ConfigError::File { .. } => vec![error.to_string()],
        })?);
        let nothing = Catalogs::default();
        let wanted = |settings| Desired::new(settings, &nothing);
        let plan = diff(&wanted(self.current()), &wanted(Arc::clone(&settings)));
        let mut errors: Vec<String> = plan.refused.iter().map(ToString::to_string).collect();
        let filter = Filter::new(&settings.log);
        errors.extend(filter.as_ref().err().map(ToString::to_string));
        let mut databases = Vec::new();
        for name in plan.settings.iter().filter_map(to_connect) {
            match settings.database(name).map(connect) {
                Some(Ok(database)) => databases.push(database),
                Some(Err(error)) => errors.push(error.to_string()),
                None => {}
            }
        }
        match filter {
            Ok(filter) if errors.is_empty() => Ok(Judged {
                settings,
                databases,
                filter,
                plan,
            }),
            Ok(_) | Err(_) => Err(errors),
        }
    }
}

/// The database that a change needs other connections for.
fn to_connect(change: &SettingChange) -> Option<&Arc<str>> {
    match change {
        SettingChange::Database {
            name,
            step: DatabaseStep::Start | DatabaseStep::Restart { .. },
        } => Some(name),
        SettingChange::Database {
            step: DatabaseStep::Stop,
            ..
        }
        | SettingChange::Value { .. } => None,
    }
}

// === impl Reloads ===

impl Reloads {
    /// Somebody asks for a reload that cannot begin yet.
    pub(super) const fn ask_later(&mut self) {
        self.again = true;
    }

    /// Somebody asks for a reload.
    pub(super) fn ask(&mut self, root: &Root, supervisor: &Addr<Supervisor>) {
        if self.under_way.is_some() {
            self.again = true;
            return;
        }
        root.notifier.reloading();
        let task = carry_out(root.clone(), supervisor.clone());
        self.under_way = Some(tokio::spawn(task));
    }

    /// There is a new supervisor: what was asked of the one before and not answered,
    /// or could not begin, is begun.
    pub(super) fn resume(&mut self, root: &Root, supervisor: &Addr<Supervisor>) {
        let was_under_way = self.under_way.take().is_some();
        if std::mem::take(&mut self.again) || was_under_way {
            self.ask(root, supervisor);
        }
    }

    /// Waits for the end of the reload under way.
    pub(super) async fn ended(&mut self) -> Result<Outcome, JoinError> {
        match &mut self.under_way {
            Some(task) => task.await,
            None => pending().await,
        }
    }

    /// Shows how it ended, and begins the next one if one is wanted.
    pub(super) fn conclude(
        &mut self,
        ended: Result<Outcome, JoinError>,
        root: &Root,
        supervisor: &Addr<Supervisor>,
    ) {
        self.under_way = None;
        let now = SystemTime::now();
        match ended {
            Ok(Outcome::Taken(plan)) => {
                let hash = root.configuration.current().fingerprint();
                root.metrics.config_taken(&hash, now);
                root.board.config_taken(&hash, now);
                say(&plan, &hash);
            }
            Ok(Outcome::Refused(errors)) => root.refuse(errors, now),
            Err(error) => root.refuse(vec![format!("it could not be read: {error}")], now),
            Ok(Outcome::Unheard) => {
                // It is begun again by the next supervisor, if there is one.
                tracing::warn!("SIGHUP: nobody is there to carry the reload out");
                self.again = true;
                return;
            }
        }
        root.notifier.ready();
        if std::mem::take(&mut self.again) {
            self.ask(root, supervisor);
        }
    }
}

impl Root {
    fn refuse(&self, errors: Vec<String>, now: SystemTime) {
        for problem in &errors {
            tracing::error!(%problem, "the configuration is wrong");
        }
        let errors_count = errors.len();
        tracing::error!(
            errors = errors_count,
            "SIGHUP: the configuration is refused as a whole; the one before goes on"
        );
        self.metrics.config_refused();
        self.board.config_refused(errors, now);
    }
}

fn say(plan: &Plan, hash: &str) {
    for change in &plan.settings {
        match change {
            SettingChange::Database { name, step } => {
                tracing::info!(database = %name, ?step, "reload");
            }
            SettingChange::Value { setting, from, to } => {
                tracing::info!(key = setting.key(), %from, %to, "reload");
            }
        }
    }
    let count =
        |wanted: fn(&Step) -> bool| plan.pipelines.values().filter(|step| wanted(step)).count();
    tracing::info!(
        %hash,
        settings = plan.settings.len(),
        started = count(|step| matches!(step, Step::Start)),
        stopped = count(|step| matches!(step, Step::Stop)),
        restarted = count(|step| matches!(step, Step::Restart { .. })),
        changed = count(|step| matches!(step, Step::Change { .. })),
        kept = count(|step| matches!(step, Step::Keep)),
        "SIGHUP: the configuration is taken; pipelines of the file are counted here"
    );
}

async fn carry_out(root: Root, supervisor: Addr<Supervisor>) -> Outcome {
    let configuration = root.configuration.clone();
    // References to files may be slow to follow.
    let judged = tokio::task::spawn_blocking(move || configuration.judge()).await;
    let judged = match judged {
        Ok(Ok(judged)) => judged,
        Ok(Err(errors)) => return Outcome::Refused(errors),
        Err(error) => return Outcome::Refused(vec![format!("it could not be read: {error}")]),
    };
    let Judged {
        settings,
        databases,
        filter,
        plan,
    } = judged;
    root.configuration.replace(Arc::clone(&settings));
    root.clients.set_timeouts(timeouts(&settings));
    root.drains_within
        .set(settings.limits.drain_grace + LAST_ACTS);
    root.log.set(filter);
    let (applied, is_applied) = oneshot::channel();
    let reload = Reload {
        settings,
        databases,
        applied,
    };
    if supervisor.try_send(reload).is_err() || is_applied.await.is_err() {
        return Outcome::Unheard;
    }
    Outcome::Taken(plan)
}
