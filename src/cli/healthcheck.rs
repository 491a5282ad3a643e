//! `tidegate healthcheck`: asks the relay of the same configuration how it is.
//!
//! It is the `HEALTHCHECK` of the image, which has neither a shell nor curl. Only
//! `admin.listen` is read of the configuration: a file that somebody has spoiled since
//! the relay read it must not have an orchestrator restart a relay that works.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::admin_port::{address_of, ask};
use super::{Failure, Output};
use crate::config::admin_listen::admin_listen;
use crate::config::environment::Environment;
use crate::config::human_duration::HumanDuration;

/// How long the answer may take: the admin port has a thread of its own, so it is
/// there in milliseconds; and less than the 5 s that the image's `HEALTHCHECK` allows,
/// so that the reason is told.
const PATIENCE: HumanDuration = HumanDuration(Duration::from_secs(3));

/// What is asked.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Ask instead whether it has started and is not draining (/readyz)
    #[arg(long)]
    ready: bool,
    /// How long the answer may take
    #[arg(long, value_name = "DURATION", default_value_t = PATIENCE)]
    timeout: HumanDuration,
}

pub(super) fn run(
    arguments: &Arguments,
    file: Option<&Path>,
    output: Output,
) -> Result<ExitCode, Failure> {
    let listen = admin_listen(file, &Environment::of_process())?;
    if listen.port() == 0 {
        return Err(Failure::Failed(
            "admin.listen has port 0, so nobody knows where the relay listens; \
             give it a port"
                .to_owned(),
        ));
    }
    let address = address_of(listen);
    let (path, good) = if arguments.ready {
        ("/readyz", "ready")
    } else {
        ("/livez", "live")
    };
    let answer = ask(&address, path, arguments.timeout.0).map_err(|reason| {
        Failure::Failed(format!(
            "the relay at {address} (admin.listen) does not say how it is: {reason}"
        ))
    })?;
    if answer.status != 200 {
        return Err(Failure::Failed(format!(
            "the relay at {address} is not {good}: HTTP status {}, {}",
            answer.status,
            answer.body.trim()
        )));
    }
    output.result(
        &format!("the relay at {address} is {good}"),
        &json!({ "ok": true, "address": address, "path": path }),
    );
    Ok(ExitCode::SUCCESS)
}
