//! What must hold after a run.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use gozon_audit::{Clocks, Options, audit};
use gozon_contract::{Clock, Timestamp};
use gozon_store::Db;
use uuid::Uuid;

use crate::{
    log,
    notes::{Notes, What, Write},
    plan::{Kind, Plan},
    run::violation,
    storage::{OrderRow, Storage},
    world::EPOCH_MICROS,
};

/// How far ahead a process may be that measured its database's time by a slow statement: half of its
/// round trip.
const MAX_CLOCK_ERROR_MICROS: i64 = 3_000_000;

/// The orders by id: whose, which version, which status.
pub(crate) fn by_id(orders: &[OrderRow]) -> BTreeMap<String, (Uuid, i64, String)> {
    orders
        .iter()
        .map(|(id, user, _, _, status, version, _)| {
            (id.to_string(), (*user, *version, status.clone()))
        })
        .collect()
}

/// Compares the databases with what the clients know.
pub(crate) fn notes_hold(
    notes: &Notes,
    storage: &mut Storage,
    plan: &Plan,
    now_micros: i64,
) -> anyhow::Result<()> {
    let orders = storage.orders()?;
    let deposits = storage.deposits()?;
    let accounts: BTreeSet<Uuid> = storage.accounts()?.into_iter().map(|(user,)| user).collect();
    for write in notes.writes() {
        let count = match write.what {
            What::Account => {
                if write.sure > 0 && !accounts.contains(&write.user) {
                    violation(format!("the account of {} is gone", write.user));
                }
                continue;
            }
            What::Deposit => {
                deposits.iter().filter(|it| **it == (write.user, write.amount)).count()
            }
            What::Order => {
                order_holds(&write, &orders);
                let same = |order: &&OrderRow| order.1 == write.user && order.3 == write.marker;
                orders.iter().filter(same).count()
            }
        };
        let sure = if write.key.is_some() { write.sure.min(1) } else { write.sure };
        let most = if write.key.is_some() {
            (write.sure + write.maybe).min(1)
        } else {
            write.sure + write.maybe
        };
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if count < sure || count > most {
            violation(format!(
                "{} (with a key: {}) was done {count} times; {} answers say so, {} were lost",
                write.marker,
                write.key.is_some(),
                write.sure,
                write.maybe
            ));
        }
    }
    let all = by_id(&orders);
    for told in notes.versions().keys().filter(|id| !all.contains_key(*id)) {
        violation(format!("a client was told of order {told}, which there is not"));
    }
    // A process that starts while the time is wrong learns of it a little later.
    let time_is_right = !plan.has(|kind| matches!(kind, Kind::ClockJump(..)));
    for (id, _, _, _, status, version, created_at) in &orders {
        let latest = now_micros + MAX_CLOCK_ERROR_MICROS;
        if time_is_right && !(EPOCH_MICROS..=latest).contains(created_at) {
            violation(format!("order {id} was created at {created_at}, which is not the time"));
        }
        if *version > 2 {
            violation(format!("order {id} has changed {} times", version - 1));
        }
        let known = notes.version(&id.to_string());
        if known > *version {
            violation(format!("order {id} is at version {version}; a client was told {known}"));
        }
        if status == "CANCELLED" {
            log::sometimes("an order was declined");
        }
    }
    Ok(())
}

fn order_holds(write: &Write, orders: &[OrderRow]) {
    let Some(id) = &write.id else { return };
    match orders.iter().find(|order| order.0.to_string() == *id) {
        None => violation(format!("{}: order {id} was answered and is gone", write.marker)),
        Some((_, user, amount, text, ..)) => {
            if (*user, *amount, text) != (write.user, write.amount, &write.marker) {
                violation(format!("{}: order {id} is another one", write.marker));
            }
        }
    }
}

/// The real audit of both databases.
pub(crate) fn books_hold(storage: &Storage, now_micros: i64) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let clock = Clock::manual(Timestamp::from_micros(now_micros));
    let clocks = Clocks { orders: clock.clone(), payments: clock };
    let options = Options {
        new_age_limit: Duration::ZERO,
        message_age_limit: Duration::from_hours(24 * 365),
        max_findings: 5,
        pause: Duration::ZERO,
        count_first: false,
    };
    let report = runtime.block_on(async {
        let orders = Db::open(&storage.url("orders"), 6)?;
        let payments = Db::open(&storage.url("payments"), 6)?;
        Ok::<_, anyhow::Error>(audit(&orders, &payments, &clocks, &options, |_| ()).await?)
    })?;
    let findings = report.checks.iter().flat_map(|check| &check.findings);
    for finding in findings.filter(|finding| !finding.kind.is_warning()) {
        violation(format!("the audit: {finding}"));
    }
    Ok(())
}
