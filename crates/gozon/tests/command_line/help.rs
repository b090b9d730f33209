use std::{io::Write as _, process::Stdio};

use crate::{COMMANDS, gozon, run, stdout, variables};

#[test]
fn help_shows_no_value_of_a_variable() {
    let all = variables();
    let secret = "amqp://me:sesame@host";
    for command in COMMANDS {
        for help in ["--help", "-h"] {
            let arguments = [*command, &[help]].concat();
            let mut command = gozon(&arguments);
            command.envs(all.iter().map(|name| (name, secret)));
            let text = stdout(&command.output().unwrap());
            assert!(text.contains("Usage: gozon"), "{text}");
            assert!(!text.contains("sesame"), "{text}");
        }
    }
}

#[test]
fn bash_completes_commands_and_flags() {
    let script = stdout(&run(&["completions", "bash"], &[]));
    let ask = "
        COMP_WORDS=(gozon dead-letters re) COMP_CWORD=2
        _gozon gozon re dead-letters; echo \"${COMPREPLY[@]}\"
        COMP_WORDS=(gozon audit --new) COMP_CWORD=2
        _gozon gozon --new audit; echo \"${COMPREPLY[@]}\"";
    let mut bash = std::process::Command::new("bash");
    bash.args(["--norc"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut bash = bash.spawn().unwrap();
    bash.stdin.take().unwrap().write_all(format!("{script}{ask}").as_bytes()).unwrap();
    let output = bash.wait_with_output().unwrap();
    assert_eq!(stdout(&output), "retry\n--new-age-limit\n", "{output:?}");
}

#[test]
fn every_shell_has_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = stdout(&run(&["completions", shell], &[]));
        assert!(script.contains("dead-letters") && script.contains("orders-database-url"));
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let main = stdout(&run(&["man"], &[]));
    for command in COMMANDS {
        let page = stdout(&run(&[&["man"], *command].concat(), &[("GOZON_BROKER_URL", "sesame")]));
        let title = [&["gozon"], *command].concat().join("-");
        assert!(page.contains(&format!(".TH {title} ")), "{page}");
        assert!(!page.contains("sesame"), "{page}");
        if let Some(name) = command.first() {
            assert!(main.contains(&name.replace('-', "\\-")), "{name} in\n{main}");
        }
    }
    assert!(main.contains("GOZON_LISTEN"), "{main}");
    assert!(!run(&["man", "nothing"], &[]).status.success());
}
