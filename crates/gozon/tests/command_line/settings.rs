use std::{
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::Path,
    process::Command,
};

use crate::{gozon, run, stderr, stdout, variables};

#[test]
fn an_empty_variable_counts_as_unset() {
    let folder = tempfile::tempdir().unwrap();
    let all = variables();
    let run = |arguments: &[&str]| {
        let empty = all.iter().map(|name| (name, ""));
        gozon(arguments).envs(empty).current_dir(folder.path()).output().unwrap()
    };
    stdout(&run(&["migrate"]));
    assert!(folder.path().join("data/orders.db").is_file());
    stdout(&run(&["audit"]));
    assert_eq!(stdout(&run(&["dead-letters", "list"])), "no dead letters\n");
    let bench = stderr(&run(&["bench", "--url", "http://127.0.0.1:1"]));
    assert!(bench.contains("can't open accounts at"), "{bench}");
    let gateway = stderr(&run(&["gateway"]));
    for name in ["--orders-urls (GOZON_ORDERS_URLS)", "--payments-urls (GOZON_PAYMENTS_URLS)"] {
        assert!(gateway.contains(&format!("{name} is required; an example: ")), "{gateway}");
    }
    let orders = stderr(&run(&["orders"]));
    for name in ["(GOZON_DATABASE_URL) is required", "(GOZON_BROKER_URL) is required"] {
        assert!(orders.contains(name), "{orders}");
    }
}

#[test]
fn an_unreadable_value_is_named_with_an_example() {
    for (arguments, variable, value) in [
        (&["up"] as &[&str], "GOZON_LISTEN", "localhost"),
        (&["up"], "GOZON_LISTEN", "1.2.3.4:99999"),
        (&["gateway"], "GOZON_ADMIN_LISTEN", "nowhere"),
        (&["up"], "GOZON_DATABASE_CONNECTIONS", "many"),
        (&["up"], "GOZON_DATABASE_CONNECTIONS", "0"),
        (&["gateway"], "GOZON_MAX_IN_FLIGHT", "0"),
        (&["up"], "GOZON_HEARTBEAT", "0"),
        (&["up"], "GOZON_MAX_SOCKETS", "-1"),
        (&["up"], "GOZON_ALLOWED_ORIGINS", "shop.example"),
        (&["gateway"], "GOZON_RATE_LIMIT", "1.5"),
        (&["gateway"], "GOZON_ORDERS_URLS", "10.0.0.5:8081"),
        (&["audit"], "GOZON_NEW_AGE_LIMIT", "1m"),
        (&["audit"], "GOZON_JSON", "perhaps"),
        (&["bench"], "GOZON_RATE", "fast"),
        (&["bench"], "GOZON_HOT", "perhaps"),
        (&["openapi"], "GOZON_LOG", "verbose"),
        (&["openapi"], "GOZON_LOG", "info,=debug"),
        (&["openapi"], "GOZON_LOG", "gozon[x"),
    ] {
        let output = run(arguments, &[(variable, value)]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(&format!("({variable}) can't be {value:?}: ")), "{said}");
        assert!(said.contains(&format!("; an example: {variable}=")), "{said}");
    }
}

#[test]
fn commands_that_read_make_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let typo = folder.path().join("typo");
    for command in [&["dead-letters", "list"] as &[&str], &["audit"], &["why", "x"]] {
        let output = run(command, &[("GOZON_DATA_DIR", typo.to_str().unwrap())]);
        assert!(!output.status.success() && !typo.exists(), "{command:?}: {}", stderr(&output));
    }
    let said = stderr(&run(&["dead-letters", "list", "--data-dir", typo.to_str().unwrap()], &[]));
    assert!(said.contains("there is no orders database at"), "{said}");
}

#[test]
fn a_password_in_the_address_of_a_shop_is_not_shown() {
    let url = "http://me:sesame@127.0.0.1:1/readyz";
    for arguments in [&["health", url] as &[&str], &["bench", "--url", url]] {
        let output = run(arguments, &[]);
        let said = stderr(&output);
        assert!(!output.status.success() && !said.contains("sesame"), "{said}");
    }
}

#[test]
fn a_file_that_is_no_database_ends_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let letter = folder.path().join("letter.txt");
    fs::write(&letter, "Dear shop, ".repeat(100)).unwrap();
    let url = format!("sqlite:{}", letter.display());
    let place = [
        ("GOZON_DATA_DIR", folder.path().to_str().unwrap()),
        ("GOZON_LISTEN", "127.0.0.1:0"),
        ("GOZON_ORDERS_DATABASE_URL", &url),
    ];
    let output = run(&["up"], &place);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.matches("file is not a database").count(), 1, "{said}");
}

/// Run by root, it takes somebody who may not do everything.
#[test]
fn a_database_of_another_user_is_an_error_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let place = ("GOZON_DATA_DIR", path.to_str().unwrap());
    stdout(&run(&["migrate"], &[place]));
    set_mode(path, 0o777);
    for name in ["orders.db", "payments.db"] {
        set_mode(&path.join(name), 0o444);
    }
    let migrate = gozon(&["migrate"]);
    let mut command = Command::new("setpriv");
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    // The binary may be in a folder that is root's alone.
    let binary = path.join("gozon");
    fs::copy(migrate.get_program(), &binary).unwrap();
    let output = command.arg(&binary).arg("migrate").env_clear().envs([place]).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("this user may not write to") && said.contains("orders.db"), "{said}");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_value_that_is_no_text_is_named() {
    let bytes = std::ffi::OsStr::from_bytes(b"\xff");
    let output = gozon(&["openapi"]).env("GOZON_BROKER_URL", bytes).output().unwrap();
    let said = stderr(&output);
    assert!(said.contains("(GOZON_BROKER_URL) is not valid UTF-8"), "{said}");
}

#[test]
fn an_unknown_log_level_lists_the_levels() {
    let output = run(&["openapi", "--log", "info,gozon_orders=loud"], &[]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("\"loud\" is none of the levels error, warn, info"), "{said}");
}

#[test]
fn a_setting_of_every_command_may_stand_before_it() {
    for arguments in [["--log", "error", "openapi"], ["openapi", "--log", "error"]] {
        stdout(&run(&arguments, &[]));
    }
    let output = run(&["--log", "loud", "openapi"], &[]);
    assert!(stderr(&output).contains("(GOZON_LOG) can't be \"loud\""), "{output:?}");
    let output = run(&["--listen", ":0", "openapi"], &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = stderr(&output);
    assert!(said.contains("--listen has no effect in front of openapi"), "{said}");
    // A variable is for whichever command takes it.
    stdout(&run(&["openapi"], &[("GOZON_LISTEN", ":0")]));
}

#[test]
fn a_kafka_url_that_asks_in_vain_ends_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let place = ["up", "--data-dir", folder, "--listen", "127.0.0.1:0"];
    for (parameters, instead) in [
        ("tls=true", "there are: partitions, security.protocol"),
        ("security.protocol=sasl_ssl&sasl.mechanism=GSSAPI", "PLAIN, SCRAM-SHA-256"),
        ("security.protocol=sasl_ssl", "sasl.mechanism=SCRAM-SHA-512"),
        (
            "security.protocol=sasl_ssl&sasl.mechanism=PLAIN&ssl.ca.location=/nowhere",
            "can't read /nowhere",
        ),
    ] {
        let url = format!("kafka://me:sesame@host:9092?{parameters}");
        let output = run(&place, &[("GOZON_BROKER_URL", &url)]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("(GOZON_BROKER_URL) can't be used"), "{said}");
        assert!(said.contains(instead) && !said.contains("sesame"), "{said}");
    }
}

#[test]
fn an_unusable_url_names_its_variable_not_its_value() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let place = ["--data-dir", folder, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let up = [&["up"], place.as_slice()].concat();
    for (arguments, variable, value) in [
        (up.as_slice(), "GOZON_BROKER_URL", "rabbit://me:sesame@host"),
        (up.as_slice(), "GOZON_ORDERS_DATABASE_URL", "mysql://me:sesame@host"),
        (up.as_slice(), "GOZON_PAYMENTS_DATABASE_URL", "postgres://me:sesame@host:port/name"),
        (&["migrate"], "GOZON_ORDERS_DATABASE_URL", "mysql://me:sesame@host"),
        (&["audit"], "GOZON_ORDERS_DATABASE_URL", "mysql://me:sesame@host"),
        (&["dead-letters", "list"], "GOZON_ORDERS_DATABASE_URL", "mysql://me:sesame@host"),
        (&["gateway"], "GOZON_ORDERS_URLS", "http://me:sesame@host"),
        (&["gateway"], "GOZON_WEB_URLS", "me:sesame@host"),
    ] {
        let output = run(arguments, &[(variable, value)]);
        let said = stderr(&output);
        assert!(!output.status.success(), "{variable}={value}");
        assert!(said.contains(&format!("({variable}) can't be")), "{said}");
        assert!(!said.contains("sesame"), "{said}");
    }
}
