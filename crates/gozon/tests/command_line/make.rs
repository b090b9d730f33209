use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A folder with a `cargo` that has built the binary in an unusual place.
fn cargo_that_built_elsewhere() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let binary = env!("CARGO_BIN_EXE_gozon");
    let script = r#"#!/bin/sh
case "$*" in
'run --release --package gozon -- up') exec BINARY up ;;
'build --message-format json-render-diagnostics --package gozon --bin gozon')
    echo '{"target":{"kind":["lib"],"name":"gozon"},"profile":{"test":false},"executable":null}'
    echo '{"target":{"kind":["bin"],"name":"gozon","doc":true},"profile":{"test":true},"executable":"/a/test"}'
    echo '{"target":{"kind":["bin"],"name":"gozon","doc":true},"profile":{"test":false},"executable":"BINARY"}'
    echo '{"target":{"kind":["bin"],"name":"gozon-bench","doc":true},"profile":{"test":false},"executable":"/a/bench"}'
    echo '{"reason":"build-finished","success":true}' ;;
*) echo "unexpected: cargo $*" >&2; exit 1 ;;
esac
"#
    .replace("BINARY", binary);
    let cargo = folder.path().join("cargo");
    fs::write(&cargo, script).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// A program that finds this `cargo` before the real one.
fn with_cargo(cargo: &Path, program: &str) -> Command {
    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new(program);
    command.current_dir(ROOT).env("PATH", format!("{}:{path}", cargo.display()));
    command
}

#[test]
fn make_run_runs_what_cargo_built() {
    let cargo = cargo_that_built_elsewhere();
    let data = tempfile::tempdir().unwrap();
    let mut make = with_cargo(cargo.path(), "make");
    // The page is not what this is about: `make` takes it as built.
    make.args(["--old-file=web", "run"]);
    for (variable, value) in [
        ("CARGO_TARGET_DIR", "/nowhere"),
        ("GOZON_LISTEN", "127.0.0.1:0"),
        ("GOZON_ADMIN_LISTEN", "127.0.0.1:0"),
        ("GOZON_DATA_DIR", data.path().to_str().unwrap()),
    ] {
        make.env(variable, value);
    }
    let mut make = make.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(make.stderr.take().unwrap()).lines();
    let listens = lines.map_while(Result::ok).any(|line| line.contains("the shop listens on"));
    let id = make.id().to_string();
    let stop = Command::new("pkill").args(["-TERM", "--parent", &id]).status().unwrap();
    make.wait().unwrap();
    assert!(listens && stop.success());
}

#[test]
fn the_build_script_prints_where_cargo_put_it() {
    let cargo = cargo_that_built_elsewhere();
    let output = with_cargo(cargo.path(), "scripts/build").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed, format!("{}\n", env!("CARGO_BIN_EXE_gozon")));
}
