//! Where one order is, why, and what to do about it: everything that both databases know of it.

mod advice;
mod sql;

use std::time::Duration;

use gozon_contract::Timestamp;
use gozon_store::{Db, Result};
use serde::Serialize;
use uuid::Uuid;

pub use advice::Verdict;

use crate::{AuditError, Clocks, Side};

/// How long to wait before a second look at an order that nothing explains: its message may have
/// been between the two databases.
const PAUSE: Duration = Duration::from_millis(300);

/// Everything that both databases know of one order.
#[derive(Clone, Debug, Serialize)]
pub struct OrderReport {
    /// The order's id.
    pub order_id: Uuid,
    /// The row of the order.
    pub order: Option<Order>,
    /// What was decided about its payment.
    pub payment: Option<Payment>,
    /// The ledger entries that name it. There should be one if it was paid, otherwise none.
    pub entries: Vec<Entry>,
    /// The balance of its user's account now.
    pub balance: Option<i64>,
    /// Its messages that wait in a database.
    pub messages: Vec<Waiting>,
    /// What all that means.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// A row of `orders`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Order {
    /// Whose order it is.
    pub user_id: Uuid,
    /// The price in minor units.
    pub amount: i64,
    /// `NEW`, `FINISHED` or `CANCELLED`.
    pub status: String,
    /// Why it was cancelled.
    pub cancel_reason: Option<String>,
    /// 1 when it is placed, more with each change.
    pub version: i64,
    /// When it was placed.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A row of `payments`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Payment {
    /// Whose account was asked.
    pub user_id: Uuid,
    /// How much, in minor units.
    pub amount: i64,
    /// Why it was declined; it was paid otherwise.
    pub decline_reason: Option<String>,
    /// When it was decided.
    pub created_at: Timestamp,
}

/// A row of `entries`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its number within the account.
    pub seq: i64,
    /// The change of the balance, in minor units.
    pub amount: i64,
    /// The balance after it.
    pub balance_after: i64,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A message about the order that waits in a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// In which database.
    pub database: Side,
    /// In which table.
    pub place: Place,
    /// The id, as `gozon dead-letters` takes it.
    pub id: String,
    /// Its topic.
    pub topic: String,
    /// Since when.
    pub since: Timestamp,
    /// How often it was tried.
    pub attempts: i64,
    /// When it is tried again.
    pub next_attempt_at: Option<Timestamp>,
    /// What went wrong last.
    pub error: Option<String>,
}

/// The table in which a message waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// It waits to be sent.
    Outbox,
    /// It was received, and its handler failed so far.
    InboxPending,
    /// It was given up on.
    DeadLetters,
}

impl Place {
    /// The table's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Outbox => "outbox",
            Self::InboxPending => "inbox_pending",
            Self::DeadLetters => "dead_letters",
        }
    }
}

impl OrderReport {
    /// Whether neither database knows the order.
    pub fn is_unknown(&self) -> bool {
        self.order.is_none() && self.payment.is_none() && self.messages.is_empty()
    }
}

/// Looks for an order in both databases, and says where it is and why. Writes nothing.
///
/// An order of a user whose payment was not decided yet is found by reading the table of orders,
/// which takes long if it is large.
///
/// # Errors
/// A database can't be reached, or does not have our tables.
pub async fn why(
    orders: &Db,
    payments: &Db,
    clocks: &Clocks,
    order_id: Uuid,
) -> std::result::Result<OrderReport, AuditError> {
    let report = look(orders, payments, clocks, order_id).await?;
    if !report.verdict.is_unexplained() {
        return Ok(report);
    }
    tokio::time::sleep(PAUSE).await;
    look(orders, payments, clocks, order_id).await
}

async fn look(
    orders: &Db,
    payments: &Db,
    clocks: &Clocks,
    order_id: Uuid,
) -> std::result::Result<OrderReport, AuditError> {
    // The payment is found by its key and names the user, by which the order is found then.
    let payer = payer(payments, order_id).await.map_err(Side::Payments.failed())?;
    let (order, mut messages) =
        in_orders(orders, payer, order_id).await.map_err(Side::Orders.failed())?;
    let user = order.as_ref().map(|order| order.user_id).or(payer);
    let account = in_payments(payments, user, order_id).await.map_err(Side::Payments.failed())?;
    messages.extend(account.messages);
    let mut report = OrderReport {
        order_id,
        order,
        payment: account.payment,
        entries: account.entries,
        balance: account.balance,
        messages,
        verdict: Verdict::default(),
    };
    report.verdict = advice::judge(&report, clocks.now());
    Ok(report)
}

async fn payer(payments: &Db, order_id: Uuid) -> Result<Option<Uuid>> {
    let mut reader = payments.snapshot().await?;
    Ok(sql::payment(&mut reader, order_id).await?.map(|payment| payment.user_id))
}

async fn in_orders(
    orders: &Db,
    user: Option<Uuid>,
    order_id: Uuid,
) -> Result<(Option<Order>, Vec<Waiting>)> {
    let mut reader = orders.snapshot().await?;
    let mut order = None;
    if let Some(user) = user {
        order = sql::order_of(&mut reader, user, order_id).await?;
    }
    if order.is_none() {
        order = sql::order(&mut reader, order_id).await?;
    }
    Ok((order, sql::find_messages(&mut reader, Side::Orders, order_id).await?))
}

struct InPayments {
    payment: Option<Payment>,
    entries: Vec<Entry>,
    balance: Option<i64>,
    messages: Vec<Waiting>,
}

async fn in_payments(payments: &Db, user: Option<Uuid>, order_id: Uuid) -> Result<InPayments> {
    let mut reader = payments.snapshot().await?;
    let payment = sql::payment(&mut reader, order_id).await?;
    let (mut entries, mut balance) = (Vec::new(), None);
    if let Some(user) = payment.as_ref().map(|payment| payment.user_id).or(user) {
        entries = sql::entries(&mut reader, user, order_id).await?;
        balance = sql::balance(&mut reader, user).await?;
    }
    let messages = sql::find_messages(&mut reader, Side::Payments, order_id).await?;
    Ok(InPayments { payment, entries, balance, messages })
}
