//! The command line as a whole.

use clap::{Command, CommandFactory};

use super::Arguments;

/// The page that describes the commands.
const PAGE: &str = include_str!("../../docs/commands.md");

/// Every command below one, with the words it is called by.
fn below(command: &Command, words: &str, found: &mut Vec<(String, Command)>) {
    for one in command
        .get_subcommands()
        .filter(|one| one.get_name() != "help")
    {
        let words = format!("{words} {}", one.get_name());
        below(one, &words, found);
        found.push((words, one.clone()));
    }
}

fn commands() -> Vec<(String, Command)> {
    let mut program = Arguments::command();
    program.build();
    let mut found = Vec::new();
    below(&program, "tidegate", &mut found);
    found.push(("tidegate".to_owned(), program));
    found
}

#[test]
fn the_definitions_fit_together() {
    Arguments::command().debug_assert();
}

#[test]
fn every_command_and_option_says_what_it_does() {
    for (words, command) in commands() {
        let about = command.get_about().map(ToString::to_string);
        let about = about.unwrap_or_default();
        assert!(about.len() > 10, "{words} says nothing");
        for argument in command.get_arguments() {
            let id = argument.get_id().as_str();
            if ["help", "version"].contains(&id) || argument.is_hide_set() {
                continue;
            }
            let help = argument.get_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            assert!(help.len() > 5, "{words}: {id} says nothing");
            let takes_value = argument.get_action().takes_values();
            let names = argument.get_value_names().unwrap_or_default();
            let is_named = names
                .iter()
                .all(|name| name.to_uppercase() == name.as_str());
            assert!(!takes_value || is_named, "{words}: {id} takes {names:?}");
        }
    }
}

#[test]
fn every_command_is_in_its_page() {
    for (words, _) in commands() {
        assert!(
            PAGE.contains(&format!("`{words}")),
            "docs/commands.md lacks {words}"
        );
    }
}
