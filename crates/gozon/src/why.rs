//! `gozon why ORDER`: where an order is, why, and what to do about it.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use gozon_audit::OrderReport;
use uuid::Uuid;

use crate::{
    audit::{clocks_of, explain, open},
    config::Databases,
    terminal::{self, printable, printable_json},
};

/// One snapshot at a time.
const CONNECTIONS: u32 = 1;

/// The arguments of `gozon why`.
#[derive(clap::Args, Debug)]
pub struct WhyArgs {
    /// The order's id
    order: Uuid,
    /// Answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    databases: Databases,
}

/// Prints all that is known of the order: 0 if anything is, 1 if not.
pub async fn run(args: &WhyArgs) -> anyhow::Result<ExitCode> {
    let orders = open("orders", &args.databases.orders_url(), CONNECTIONS)?;
    let payments = open("payments", &args.databases.payments_url(), CONNECTIONS)?;
    let spinner = terminal::spinner("looking for the order".to_owned());
    let clocks = clocks_of(&orders, &payments).await;
    let report = gozon_audit::why(&orders, &payments, &clocks, args.order).await;
    spinner.finish_and_clear();
    let report = report.map_err(|error| explain(&error))?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", printable_json(&serde_json::to_value(&report)?))?;
    } else {
        print(&report, &mut out)?;
    }
    Ok(if report.is_unknown() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(report: &OrderReport, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "order     {}", report.order_id)?;
    if let Some(order) = &report.order {
        let reason = order.cancel_reason.as_deref().map(|reason| format!(" ({reason})"));
        writeln!(out, "user      {}", order.user_id)?;
        writeln!(out, "amount    {}", order.amount)?;
        writeln!(out, "status    {}{}", order.status, reason.unwrap_or_default())?;
        writeln!(out, "placed    {}", order.created_at)?;
        writeln!(out, "changed   {} (version {})", order.updated_at, order.version)?;
    }
    match &report.payment {
        None => writeln!(out, "payment   none")?,
        Some(payment) => {
            let outcome = match &payment.decline_reason {
                None => "paid".to_owned(),
                Some(reason) => format!("declined ({reason})"),
            };
            writeln!(out, "payment   {outcome}, {}, at {}", payment.amount, payment.created_at)?;
        }
    }
    for entry in &report.entries {
        let (seq, amount, after) = (entry.seq, entry.amount, entry.balance_after);
        writeln!(out, "entry     {seq}: {amount}, balance {after}, at {}", entry.created_at)?;
    }
    match report.balance {
        None => writeln!(out, "account   none")?,
        Some(balance) => writeln!(out, "account   balance {balance}")?,
    }
    for message in &report.messages {
        let (database, place) = (message.database.as_str(), message.place.as_str());
        let (topic, attempts) = (printable(&message.topic), message.attempts);
        write!(out, "message   {topic} in {database}.{place} since {}", message.since)?;
        writeln!(out, ", {attempts} attempts, id {}", printable(&message.id))?;
        if let Some(error) = &message.error {
            writeln!(out, "          {}", printable(error))?;
        }
    }
    writeln!(out, "why       {}", printable(&report.verdict.why))?;
    writeln!(out, "to do     {}", printable(&report.verdict.advice))
}
