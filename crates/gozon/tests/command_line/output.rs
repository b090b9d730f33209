use std::process::{Command, Stdio};

use crate::{gozon, run, signals::Running, stderr, stdout};

/// Runs a command whose output nobody reads.
fn unread(arguments: &[&str]) -> std::process::Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    gozon(arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap()
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let place = ["--data-dir", folder.path().to_str().unwrap()];
    stdout(&run(&[&["migrate"], place.as_slice()].concat(), &[("GOZON_LOG", "error")]));
    for command in [
        &["openapi"] as &[&str],
        &["completions", "bash"],
        &["man"],
        &["--help"],
        &[&["dead-letters", "list", "--log", "error"], place.as_slice()].concat(),
        &[&["audit", "--log", "error"], place.as_slice()].concat(),
    ] {
        let output = unread(command);
        assert_eq!(output.status.code(), Some(0), "{command:?}: {output:?}");
        assert_eq!(stderr(&output), "", "{command:?}");
    }
}

/// What a command writes to a terminal.
fn on_a_terminal(arguments: &[&str]) -> String {
    let line = [&[env!("CARGO_BIN_EXE_gozon")], arguments].concat().join(" ");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    stdout(&script.env("GOZON_LOG", "error").stdin(Stdio::null()).output().unwrap())
}

#[test]
fn progress_is_shown_on_a_terminal_only() {
    let folder = tempfile::tempdir().unwrap();
    let place = format!("--data-dir={}", folder.path().display());
    for (command, progress) in [
        (&["migrate"] as &[&str], "bringing the payments database up to date"),
        (&["audit"], "rows"),
        (&["dead-letters", "retry", "--all"], "putting back dead letters of the orders database"),
    ] {
        let arguments = [command, &[&place]].concat();
        let shown = on_a_terminal(&arguments);
        assert!(shown.contains(progress), "{shown}");
        let quiet = run(&arguments, &[("GOZON_LOG", "error")]);
        assert_eq!(stderr(&quiet), "", "{command:?}");
    }
}

#[test]
fn a_load_has_a_progress_bar_on_a_terminal_only() {
    let folder = tempfile::tempdir().unwrap();
    let place = ["--data-dir", folder.path().to_str().unwrap()];
    let listen = ["up", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let mut shop = Running::start(&[listen.as_slice(), &place].concat());
    let url = format!("http://{}", shop.address());
    let load = ["bench", "--url", &url, "--orders", "20", "--users", "4"];
    let shown = on_a_terminal(&load);
    assert!(shown.contains(" 0 % "), "{shown}");
    let quiet = run(&load, &[("GOZON_LOG", "error")]);
    assert_eq!(stderr(&quiet), "", "{quiet:?}");
}
