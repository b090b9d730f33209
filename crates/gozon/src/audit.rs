//! `gozon audit`: checks that no money or order is lost or wrong.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{anyhow, bail};
use gozon_audit::{AuditError, Clocks, MAX_LOST, Options, Progress, Report};
use gozon_contract::{OrderId, RandomSource, UserId};
use gozon_store::{DatabaseClock, Db};

use crate::{
    config::Audit,
    migrate::clock_of,
    settings::{DatabaseUrl, names},
    terminal::{self, ignore_broken_pipe, with_causes},
};

/// Two snapshots of each database, and one connection for second looks.
const CONNECTIONS: u32 = 3;

/// How long what was between two places may take to arrive before it is looked for again.
const PAUSE: Duration = Duration::from_secs(1);

/// Audits and prints the report: exits with 0 if everything holds, 1 if not, 2 if the databases
/// can't be read.
pub async fn run(args: &Audit) -> ExitCode {
    let result = async {
        let report = audit(args).await?;
        // A reader that went away has read enough; the exit code still tells the result.
        print(&report, args.json).or_else(ignore_broken_pipe)?;
        if args.repair {
            repair(args, &report).await?;
        }
        anyhow::Ok(report.ok)
    };
    match result.await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {}", with_causes(&error));
            ExitCode::from(2)
        }
    }
}

async fn audit(args: &Audit) -> anyhow::Result<Report> {
    let orders = open("orders", &args.databases.orders_url(), CONNECTIONS)?;
    let payments = open("payments", &args.databases.payments_url(), CONNECTIONS)?;
    let bar = terminal::bar("{human_pos} of {human_len} rows, {eta} left");
    let options = Options {
        new_age_limit: Duration::from_secs(args.new_age_limit),
        message_age_limit: Duration::from_secs(args.message_age_limit),
        max_findings: args.max_findings,
        pause: PAUSE,
        count_first: !bar.is_hidden(),
    };
    let show = |progress: Progress| {
        bar.set_length(progress.of);
        bar.set_position(progress.rows);
    };
    let clocks = clocks_of(&orders, &payments).await;
    let report = gozon_audit::audit(&orders, &payments, &clocks, &options, show).await;
    bar.finish_and_clear();
    let report = report.map_err(|error| explain(&error))?;
    orders.close().await;
    payments.close().await;
    Ok(report)
}

/// Asks again for the payment of the orders that were found lost, and says so on standard error: the
/// report may be read by a machine.
async fn repair(args: &Audit, report: &Report) -> anyhow::Result<()> {
    let lost = report.lost.iter();
    let keys: Vec<(UserId, OrderId)> =
        lost.map(|&(user, order)| (user.into(), order.into())).collect();
    let mut asked = 0;
    if !keys.is_empty() {
        let orders = open("orders", &args.databases.orders_url(), 1)?;
        let time = DatabaseClock::start(orders.clone()).await?;
        let random = RandomSource::system();
        asked = gozon_orders::ask_again(&orders, &time.clock(), &random, &keys).await?;
        orders.close().await;
    }
    let mut out = io::stderr().lock();
    writeln!(out, "repair: asked again for the payment of {asked} orders that were lost")?;
    if keys.len() == MAX_LOST {
        writeln!(out, "repair: there may be more; run it again once these are settled")?;
    }
    Ok(())
}

/// The time of both databases.
pub async fn clocks_of(orders: &Db, payments: &Db) -> Clocks {
    Clocks { orders: clock_of(orders).await, payments: clock_of(payments).await }
}

/// Opens a database that exists: reading makes no SQLite file.
pub fn open(name: &str, url: &DatabaseUrl, connections: u32) -> anyhow::Result<Db> {
    if let Some(path) = gozon_store::sqlite_file(url.as_str()).filter(|path| !path.is_file()) {
        let path = path.display();
        bail!(
            "there is no {name} database at {path}; \
             give --data-dir, or --{name}-database-url"
        );
    }
    url.open(connections)
}

/// Says what to do about it.
pub fn explain(error: &AuditError) -> anyhow::Error {
    let setting = names(&format!("{}-database-url", error.side.as_str()));
    anyhow!(
        "{error}: {}; check that it runs, that {setting} is right, and that its tables are up to \
         date (`gozon migrate`)",
        error.source
    )
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(report)?)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(())
}
