//! `tidegate completions` and `tidegate man`: made from the same definitions that parse
//! the command line, so they cannot say anything else.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;
use serde_json::json;

use super::{Failure, Output};

/// The name everything is made for.
const PROGRAM: &str = "tidegate";

/// For which shell.
#[derive(Debug, Args)]
pub(super) struct CompletionsArguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Where to.
#[derive(Debug, Args)]
pub(super) struct ManArguments {
    /// Write a page per command into this folder, which is made if it is not there.
    /// (Default: the program's own page to standard output)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Prints a script for a shell. It is no result of its own, so `--output` is not heeded.
pub(super) fn completions(
    mut command: Command,
    arguments: &CompletionsArguments,
) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, PROGRAM, &mut script);
    print(&script)
}

pub(super) fn man(
    command: Command,
    arguments: &ManArguments,
    output: Output,
) -> Result<ExitCode, Failure> {
    let Some(folder) = &arguments.out else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .render(&mut page)
            .map_err(|error| Failure::Failed(format!("no page: {error}")))?;
        return print(&page);
    };
    let failed =
        |error: std::io::Error| Failure::Failed(format!("--out {}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(command, folder).map_err(failed)?;
    let pages = pages(folder).map_err(failed)?;
    let text = format!("{} pages in {}", pages.len(), folder.display());
    output.result(
        &text,
        &json!({ "ok": true, "folder": folder, "pages": pages }),
    );
    Ok(ExitCode::SUCCESS)
}

/// The pages in a folder, by name.
fn pages(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(PROGRAM) && name.ends_with(".1") {
            pages.push(name);
        }
    }
    pages.sort();
    Ok(pages)
}

/// A closed pipe is not an error: somebody has seen enough.
fn print(bytes: &[u8]) -> Result<ExitCode, Failure> {
    std::io::stdout().write_all(bytes).ok();
    Ok(ExitCode::SUCCESS)
}
