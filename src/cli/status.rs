//! `tidegate status`: what a relay does; and what the databases know of their pipelines
//! where no relay answers.

mod by_database;
mod by_relay;
mod sweeps;

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::admin_port::{Relay, json_of};
use super::watching::Watching;
use super::{Failure, Output, load};
use by_relay::Rates;

/// What is to be shown.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Ask no relay: show what the databases know, of the pipelines of all relays
    #[arg(long, conflicts_with = "relay")]
    database: bool,
    /// Only the pipelines of this tenant; not with --database
    #[arg(long, value_name = "NAME", conflicts_with = "database")]
    tenant: Option<String>,
    #[command(flatten)]
    relay: Relay,
    #[command(flatten)]
    watching: Watching,
}

pub(super) fn run(
    file: Option<&Path>,
    arguments: &Arguments,
    output: Output,
) -> Result<ExitCode, Failure> {
    if arguments.database {
        let settings = load(file)?;
        return arguments
            .watching
            .show(output, || by_database::picture(&settings, None));
    }
    let address = arguments.relay.address(file)?;
    let mut rates = Rates::default();
    arguments.watching.show(output, || {
        let mut status = match json_of(&address, "/api/status") {
            Ok(status) => status,
            // One that was named is meant, and no database in its place.
            Err(failure) if arguments.relay.is_given() => return Err(failure),
            Err(failure) => {
                return by_database::picture(&load(file)?, Some(&failure.to_string()));
            }
        };
        if let Some(tenant) = &arguments.tenant {
            keep_tenant(&mut status, tenant);
        }
        Ok((by_relay::text(&status, &mut rates), with_source(status)))
    })
}

/// Says where an answer comes from: scripts must be able to tell.
fn with_source(mut status: Value) -> Value {
    status["source"] = json!("relay");
    status
}

fn keep_tenant(status: &mut Value, tenant: &str) {
    if let Some(pipelines) = status["pipelines"].as_array_mut() {
        pipelines.retain(|pipeline| pipeline["tenant"] == tenant);
    }
    if let Some(tenants) = status["tenants"].as_array_mut() {
        tenants.retain(|one| one["name"] == tenant);
    }
}
