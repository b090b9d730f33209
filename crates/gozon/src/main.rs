//! The one binary of Gozon: the whole shop in one process, each service on its own, and the tools
//! to run them.

mod audit;
mod config;
mod dead_letters;
mod health;
mod manual;
mod migrate;
mod openapi;
mod process;
mod serve;
mod settings;
mod terminal;
mod up;
mod web;
mod why;

use std::process::ExitCode;

use config::{Cli, Command};
use gozon_http::Logs;
use terminal::{ignore_broken_pipe, with_causes};
use tokio::task::spawn_blocking;

/// Batches are built from many small allocations; the system's allocator is noticeably slower.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[allow(clippy::print_stderr, reason = "this is where a command says why it failed")]
fn main() -> ExitCode {
    let cli = match settings::read() {
        Ok(cli) => cli,
        Err(error) => {
            let Some(reason) = settings::explain(&error) else { error.exit() };
            eprintln!("error: {reason}");
            return ExitCode::from(2);
        }
    };
    let log = match cli.command {
        // These read for long; a warning about each slow query would not help.
        Some(Command::Audit(_) | Command::Why(_)) => format!("sqlx::query=error,{}", cli.log),
        _ => cli.log.clone(),
    };
    if let Err(error) = Logs::start(&log) {
        eprintln!("error: {} can't be {:?}: {error}", settings::names("log"), cli.log);
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: can't start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(run(cli));
    match done.or_else(|error| ignore_broken_pipe(error).map(|()| ExitCode::SUCCESS)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command.unwrap_or(Command::Up(cli.up)) {
        Command::Up(args) => up::up(args).await?,
        Command::Gateway(args) => serve::gateway(args).await?,
        Command::Orders(args) => serve::orders(args).await?,
        Command::Payments(args) => serve::payments(args).await?,
        Command::Web(args) => serve::web(args).await?,
        Command::Migrate(args) => migrate::both(&args).await?,
        Command::DeadLetters(args) => dead_letters::run(args).await?,
        Command::Audit(args) => return Ok(audit::run(&args).await),
        Command::Health(args) => return health::ask(&args.url).await,
        Command::Why(args) => return why::run(&args).await,
        Command::Openapi => openapi::print()?,
        Command::Completions { shell } => manual::completions(shell)?,
        Command::Man { command } => manual::man(&command)?,
        Command::Bench(args) => spawn_blocking(move || gozon_bench::run(&args)).await??,
    }
    Ok(ExitCode::SUCCESS)
}
