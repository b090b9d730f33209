//! `gozon completions` and `gozon man`: made from the command line's own description.

use std::io::{self, Write as _};

use anyhow::Context as _;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::settings;

/// Prints the completions of a shell.
pub fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut settings::command(), "gozon", &mut script);
    Ok(io::stdout().write_all(&script)?)
}

/// Prints the manual page of the program, or of the command that `path` names.
pub fn man(path: &[String]) -> anyhow::Result<()> {
    let mut root = settings::command();
    root.build();
    let mut command = &root;
    for name in path {
        command = command
            .find_subcommand(name)
            .with_context(|| format!("there is no command {:?}", path.join(" ")))?;
    }
    let title = [&["gozon".to_owned()], path].concat().join("-");
    let mut page = Vec::new();
    let source = concat!("gozon ", env!("CARGO_PKG_VERSION"));
    Man::new(command.clone()).title(title).source(source).render(&mut page)?;
    Ok(io::stdout().write_all(&page)?)
}
