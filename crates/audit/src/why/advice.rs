//! What is known of an order, in words. No I/O.

use std::time::Duration;

use gozon_contract::{PAYMENT_REQUESTED, PAYMENT_SETTLED};
use serde::Serialize;

use super::{Order, OrderReport, Payment, Place, Waiting};
use crate::{
    Side,
    case::Case,
    judge::{Limits, Now},
    sql::{OrderRow, PaymentRow},
};

/// How long a message may be with the broker before somebody should look.
const WITH_BROKER: Duration = Duration::from_secs(60);

/// What the state of an order means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Why the order is where it is.
    pub why: String,
    /// What to do.
    pub advice: String,
    /// Whether it waits for a message that is in neither database.
    #[serde(skip)]
    unexplained: bool,
}

impl Verdict {
    fn new(why: String, advice: impl Into<String>) -> Self {
        Self { why, advice: advice.into(), unexplained: false }
    }

    pub(super) fn is_unexplained(&self) -> bool {
        self.unexplained
    }
}

/// Judges what both databases know.
pub(super) fn judge(report: &OrderReport, now: Now) -> Verdict {
    if report.is_unknown() {
        return Verdict::new(
            "neither database knows this order".to_owned(),
            "check the id, and that both database URLs are those of this shop",
        );
    }
    let wrong = contradictions(report, now);
    if !wrong.is_empty() {
        return Verdict::new(
            wrong.join("; "),
            "this should be impossible: keep both databases as they are, and run `gozon audit` \
             to see whether other orders are concerned",
        );
    }
    let Some(order) = &report.order else {
        return Verdict::new(
            "a message is about this order, but there is no such order".to_owned(),
            "check that both database URLs are those of one shop; the message may be forged",
        );
    };
    match (&report.payment, order.status.as_str()) {
        (None, _) => waiting(report, order, None, now),
        (Some(payment), "NEW") => waiting(report, order, Some(payment), now),
        (Some(payment), _) => settled(report, payment),
    }
}

/// What the audit finds wrong with this order.
fn contradictions(report: &OrderReport, now: Now) -> Vec<String> {
    let id = report.order_id;
    let mut case = Case::new(id);
    if let Some(order) = report.order.clone() {
        case.orders.add(OrderRow {
            id,
            user_id: order.user_id,
            amount: order.amount,
            status: order.status,
            cancel_reason: order.cancel_reason,
            created_at: order.created_at.micros(),
        });
    }
    if let Some(payment) = report.payment.clone() {
        case.add_payment(PaymentRow {
            order_id: id,
            is_entry: 0,
            user_id: payment.user_id,
            amount: payment.amount,
            decline_reason: payment.decline_reason,
            created_at: payment.created_at.micros(),
        });
    }
    let payer = report.payment.as_ref().map(|payment| payment.user_id);
    let user = payer.or(report.order.as_ref().map(|order| order.user_id));
    for entry in report.entries.iter().filter(|_| user.is_some()) {
        case.add_payment(PaymentRow {
            order_id: id,
            is_entry: 1,
            user_id: user.unwrap_or_default(),
            amount: entry.amount,
            decline_reason: None,
            created_at: entry.created_at.micros(),
        });
    }
    // Waiting is explained below, so that no age is too old here.
    let across = case.across(now, Limits::NONE);
    case.within_payments().into_iter().chain(across).map(|finding| finding.detail).collect()
}

fn settled(report: &OrderReport, payment: &Payment) -> Verdict {
    let amount = payment.amount;
    match payment.decline_reason.as_deref() {
        None => {
            let left = report.entries.first().map_or(0, |entry| entry.balance_after);
            let why = format!("it was paid: {amount} debited, which left a balance of {left}");
            Verdict::new(why, "nothing: the order is settled")
        }
        Some("no_account") => Verdict::new(
            "its user had no account when the payment was decided".to_owned(),
            "nothing: the user may open an account, top it up and order again",
        ),
        Some(_) => Verdict::new(
            format!("its user's balance was below {amount} when the payment was decided"),
            "nothing: the user may top up the account and order again",
        ),
    }
}

/// Why an order is still NEW: its request, or after the payment its result, is on its way.
fn waiting(report: &OrderReport, order: &Order, payment: Option<&Payment>, now: Now) -> Verdict {
    let (topic, name, since, from, to) = match payment {
        None => {
            let topic = PAYMENT_REQUESTED.name;
            (topic, "payment request", order.created_at, Side::Orders, Side::Payments)
        }
        Some(payment) => {
            let topic = PAYMENT_SETTLED.name;
            (topic, "payment's result", payment.created_at, Side::Payments, Side::Orders)
        }
    };
    let age = now.age(from, since.micros());
    let (from, to) = (from.as_str(), to.as_str());
    let messages = || report.messages.iter().filter(|message| message.topic == topic);
    let in_place = |place| messages().find(|message| message.place == place);
    if let Some(message) = in_place(Place::DeadLetters) {
        return dead(message, name);
    }
    if let Some(message) = in_place(Place::InboxPending) {
        let Waiting { attempts, error, next_attempt_at, .. } = message;
        let error = error.as_deref().unwrap_or_default();
        let next = next_attempt_at.map(|at| format!(" at {at}")).unwrap_or_default();
        return Verdict::new(
            format!("{to} received its {name} and failed to handle it {attempts} times: {error}"),
            format!("remove the cause of the error; the message is tried again{next}"),
        );
    }
    if in_place(Place::Outbox).is_some() {
        return Verdict::new(
            format!("its {name} has waited {} s in the outbox of {from}", age.as_secs()),
            format!(
                "check that {from} runs and that its /readyz reports the broker as reachable; \
                 the message is sent by itself then"
            ),
        );
    }
    let why = format!(
        "its {name} was sent to the broker at most {} s ago, and {to} has not handled it yet",
        age.as_secs()
    );
    let advice = if age <= WITH_BROKER {
        "nothing yet: ask again in a minute".to_owned()
    } else {
        format!(
            "check that {to} runs and is ready, and how many messages of {topic} wait at the \
             broker; if none do, the message is lost, and `gozon audit` says so too"
        )
    };
    Verdict { unexplained: true, ..Verdict::new(why, advice) }
}

fn dead(message: &Waiting, name: &str) -> Verdict {
    let Waiting { database, id, attempts, error, .. } = message;
    let (database, error) = (database.as_str(), error.as_deref().unwrap_or_default());
    Verdict::new(
        format!(
            "its {name} was given up on after {attempts} attempts, and is a dead letter in the \
             {database} database: {error}"
        ),
        format!(
            "remove the cause of the error, then run: \
             gozon dead-letters retry {id} --database {database}"
        ),
    )
}
