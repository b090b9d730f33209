//! `gozon audit`: does everything hold that must?

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use gozon_audit::{AuditError, Options, Progress, Report};
use gozon_contract::Clock;
use gozon_store::Db;
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::Audit;

/// Two snapshots of each database, and one connection for second looks.
const CONNECTIONS: u32 = 3;

/// What was on its way when it was looked at has this long to arrive.
const PAUSE: Duration = Duration::from_secs(1);

/// Audits and prints the report: 0 if everything holds, 1 if not, 2 if it can't be told.
pub async fn run(args: &Audit) -> ExitCode {
    let told = async { print(&audit(args).await?, args.json) };
    match told.await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let said = format!("{error:#}").replace('\n', " ");
            let _ = writeln!(io::stderr(), "error: {said}");
            ExitCode::from(2)
        }
    }
}

async fn audit(args: &Audit) -> anyhow::Result<Report> {
    let orders = open("orders", &args.databases.orders_url())?;
    let payments = open("payments", &args.databases.payments_url())?;
    let bar = progress_bar();
    let options = Options {
        new_age_limit: Duration::from_secs(args.new_age_limit),
        max_findings: args.max_findings,
        pause: PAUSE,
        count_first: !bar.is_hidden(),
    };
    let show = |progress: Progress| {
        bar.set_length(progress.of);
        bar.set_position(progress.rows);
    };
    let report = gozon_audit::audit(&orders, &payments, &Clock::system(), &options, show).await;
    bar.finish_and_clear();
    let report = report.map_err(|error| explain(&error))?;
    orders.close().await;
    payments.close().await;
    Ok(report)
}

/// Opens a database that is there: an audit makes none.
fn open(name: &str, url: &str) -> anyhow::Result<Db> {
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = path.trim_start_matches("//");
        if !Path::new(path).is_file() {
            bail!(
                "there is no {name} database at {path}; \
                 give --data-dir, or --{name}-database-url"
            );
        }
    }
    Db::open(url, CONNECTIONS).with_context(|| format!("--{name}-database-url can't be used"))
}

/// Says what to do about it.
fn explain(error: &AuditError) -> anyhow::Error {
    let name = error.side.as_str();
    let advice = if error.source.is_unavailable() {
        format!("check that it runs, and --{name}-database-url")
    } else {
        format!("check --{name}-database-url, and bring its tables up to date with `gozon migrate`")
    };
    anyhow!("{error}: {}; {advice}", error.source)
}

/// On a terminal only.
fn progress_bar() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = "{spinner} {wide_bar} {human_pos} of {human_len} rows, {eta} left";
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn print(report: &Report, json: bool) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(report)?)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(report.ok)
}
