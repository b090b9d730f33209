//! The command line itself: settings, help, output, signals.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod help;
mod make;
mod output;
mod settings;
mod signals;

use std::process::{Command, Output, Stdio};

/// Every command that takes settings or prints something.
const COMMANDS: &[&[&str]] = &[
    &[],
    &["up"],
    &["gateway"],
    &["orders"],
    &["payments"],
    &["web"],
    &["migrate"],
    &["dead-letters"],
    &["dead-letters", "list"],
    &["dead-letters", "show"],
    &["dead-letters", "retry"],
    &["dead-letters", "discard"],
    &["audit"],
    &["health"],
    &["why"],
    &["openapi"],
    &["completions"],
    &["man"],
    &["bench"],
];

/// The binary, with no settings from the environment of the tests.
fn gozon(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gozon"));
    for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("GOZON_")) {
        command.env_remove(variable);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs it to its end.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    gozon(arguments).envs(variables.iter().copied()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The names of all variables, as the help of all commands has them.
fn variables() -> Vec<String> {
    let mut names = Vec::new();
    for command in COMMANDS {
        let help = stdout(&run(&[*command, &["--help"]].concat(), &[]));
        let found = help.split(|c: char| !c.is_ascii_uppercase() && c != '_');
        names.extend(found.filter(|word| word.starts_with("GOZON_")).map(str::to_owned));
    }
    names.sort();
    names.dedup();
    assert!(names.len() > 30, "{names:?}");
    names
}
