//! Where the admin port of a relay is, whatever else its configuration holds.
//!
//! For whoever asks how a relay is: a mistake elsewhere in the file, made while the
//! relay runs by what it read before, says nothing of the relay. So only
//! `admin.listen` is judged, and the file is not even opened when the environment
//! gives the key.

use std::net::SocketAddr;
use std::path::Path;

use super::environment::Environment;
use super::location;
use super::problem::ConfigError;
use super::settings::merge;
use super::settings_reader::read_admin;
use super::table::{Report, Table, Typing};

/// The key.
const KEY: &str = "admin.listen";

/// The environment variable that gives it.
const VARIABLE: &str = "TIDEGATE__ADMIN__LISTEN";

/// The address in `admin.listen`, or its default.
///
/// # Errors
/// The file is needed and cannot be read, or the key holds no address.
pub fn admin_listen(
    file: Option<&Path>,
    environment: &Environment,
) -> Result<SocketAddr, ConfigError> {
    let (shown, text) = match file {
        Some(path) if environment.get(VARIABLE).is_none() => {
            let shown = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|error| ConfigError::File {
                path: shown.clone(),
                reason: error.to_string(),
            })?;
            (shown, text)
        }
        Some(_) | None => ("(none)".to_owned(), String::new()),
    };
    let problems = location::syntax_problems(&shown, &text);
    if !problems.is_empty() {
        return Err(ConfigError::Invalid(problems));
    }
    let merged = merge(&shown, &text, environment)?;
    let report = Report::new(Typing::FromText);
    let admin = read_admin(Table::new("", Some(&merged), &report).table("admin"));
    let mut problems = report.into_problems();
    // A table that is none at all is named by its own path.
    problems.retain(|problem| KEY.starts_with(&problem.key));
    if problems.is_empty() {
        return Ok(admin.listen);
    }
    location::locate(&text, environment, &mut problems);
    Err(ConfigError::Invalid(problems))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, variables: &[(&str, &str)]) -> Result<String, String> {
        let file = std::env::temp_dir().join(format!("tidegate-{}", uuid::Uuid::new_v4()));
        std::fs::write(&file, text).expect("written");
        let environment = Environment::from_iter(variables.iter().copied());
        let listen = admin_listen(Some(&file), &environment);
        std::fs::remove_file(&file).expect("removed");
        listen
            .map(|listen| listen.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn is_found_among_mistakes_elsewhere() {
        let broken = "[admin]\nlisten = \"127.0.0.1:1\"\nextra = 1\n[limits]\nmemory = 5\n\
            [[pipelines]]\nbatch_size = 0\n";
        assert_eq!(of(broken, &[]).as_deref(), Ok("127.0.0.1:1"));
        assert_eq!(of("", &[]).as_deref(), Ok("127.0.0.1:9464"));
    }

    #[test]
    fn the_environment_is_enough() {
        let variables = [(VARIABLE, "0.0.0.0:2"), ("TIDEGATE__LIMITS__MEMORY", "x")];
        assert_eq!(of("no TOML [", &variables).as_deref(), Ok("0.0.0.0:2"));
    }

    #[test]
    fn a_mistake_in_the_key_itself_is_named() {
        for (text, variables, said) in [
            (
                "\n[admin]\nlisten = \"here\"\n",
                &[][..],
                "line 3: admin.listen",
            ),
            ("admin = 5\n", &[], "line 1: admin"),
            ("listen = [\n", &[], "no TOML"),
            (
                "",
                &[(VARIABLE, "there")],
                "environment variable TIDEGATE__ADMIN__LISTEN",
            ),
        ] {
            let error = of(text, variables).expect_err(text);
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = admin_listen(Some(Path::new("/nowhere")), &Environment::default());
        let error = error.expect_err("no file").to_string();
        assert!(error.contains("/nowhere"), "{error}");
    }
}
