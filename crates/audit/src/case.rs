//! Everything that both databases say of one order, and whether it fits together. No I/O.

use uuid::Uuid;

use crate::{
    Finding, Kind, Place, Side,
    judge::{Limits, Now},
    sql::{MessageRow, OrderRow, PaymentRow},
};

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// `payment.requested`.
    Request,
    /// `payment.settled`.
    Result,
}

/// The first row of its kind, and how many there are.
#[derive(Clone, Debug)]
pub(crate) struct Seen<T> {
    pub first: Option<T>,
    pub count: u64,
}

impl<T> Seen<T> {
    pub fn nothing() -> Self {
        Self { first: None, count: 0 }
    }

    pub fn add(&mut self, row: T) {
        self.first.get_or_insert(row);
        self.count += 1;
    }
}

/// Where a message waits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Whereabouts {
    /// The oldest that is in an outbox, or in an inbox for another attempt.
    alive: Option<MessageRow>,
    /// Among the dead letters of this database.
    dead: Option<Side>,
}

/// Everything that is known of one order.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub id: Uuid,
    pub orders: Seen<OrderRow>,
    pub payments: Seen<PaymentRow>,
    pub entries: Seen<PaymentRow>,
    /// What its payments come to, without the declined ones.
    pub paid: i128,
    pub request: Whereabouts,
    pub result: Whereabouts,
}

impl Case {
    pub fn new(id: Uuid) -> Self {
        Self {
            id,
            orders: Seen::nothing(),
            payments: Seen::nothing(),
            entries: Seen::nothing(),
            paid: 0,
            request: Whereabouts::default(),
            result: Whereabouts::default(),
        }
    }

    /// Adds a payment, or an entry that names this order.
    pub fn add_payment(&mut self, row: PaymentRow) {
        if row.is_entry != 0 {
            return self.entries.add(row);
        }
        if row.decline_reason.is_none() {
            self.paid += i128::from(row.amount);
        }
        self.payments.add(row);
    }

    /// Notes where a message about this order waits.
    pub fn add_message(&mut self, message: MessageRow) {
        let place = match message.about {
            About::Request => &mut self.request,
            About::Result => &mut self.result,
        };
        if message.place == Place::DeadLetters {
            place.dead = Some(message.side);
        } else if place.alive.is_none_or(|oldest| message.since < oldest.since) {
            place.alive = Some(message);
        }
    }

    fn finding(&self, kind: Kind, user: Uuid, detail: String) -> Finding {
        Finding { kind, user_id: Some(user), order_id: Some(self.id), seq: None, detail }
    }

    /// What is wrong between the payment and its entry, which one snapshot shows for certain.
    pub fn within_payments(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let Some(payment) = &self.payments.first else {
            if let Some(entry) = &self.entries.first {
                let detail = "an entry names this order, which has no payment".to_owned();
                found.push(self.finding(Kind::EntryWithoutPayment, entry.user_id, detail));
            }
            return found;
        };
        let user = payment.user_id;
        if self.payments.count > 1 {
            let detail = format!("the order has {} payments", self.payments.count);
            found.push(self.finding(Kind::SeveralPayments, user, detail));
        }
        match (&self.entries.first, &payment.decline_reason) {
            (None, None) => {
                let detail = format!("paid {}, but no entry says so", payment.amount);
                found.push(self.finding(Kind::PaidWithoutEntry, user, detail));
            }
            (Some(_), Some(reason)) => {
                let detail = format!("declined ({reason}), but an entry debits it");
                found.push(self.finding(Kind::DeclinedWithEntry, user, detail));
            }
            (Some(entry), None) => {
                if self.entries.count > 1 {
                    let detail = format!("{} entries for one payment", self.entries.count);
                    found.push(self.finding(Kind::SeveralEntries, user, detail));
                }
                let debited = -i128::from(entry.amount);
                if (entry.user_id, debited) != (user, payment.amount.into()) {
                    let detail = format!(
                        "paid {} by {user}, but the entry debits {debited} from {}",
                        payment.amount, entry.user_id
                    );
                    found.push(self.finding(Kind::EntryMismatch, user, detail));
                }
            }
            (None, Some(_)) => {}
        }
        found
    }

    /// What looks wrong between the order and its payment. On a running system it has to be looked
    /// at again before it is believed.
    pub fn across(&self, now: Now, limits: Limits) -> Vec<Finding> {
        let mut found = Vec::new();
        let Some(order) = &self.orders.first else {
            if let Some(payment) = &self.payments.first {
                let detail = format!("a payment of {}, but there is no such order", payment.amount);
                found.push(self.finding(Kind::PaymentWithoutOrder, payment.user_id, detail));
            }
            return found;
        };
        let user = order.user_id;
        if self.orders.count > 1 {
            let detail = format!("{} orders have this id", self.orders.count);
            found.push(self.finding(Kind::SeveralOrders, user, detail));
        }
        if let Some(payment) = &self.payments.first {
            if payment.user_id != user {
                let detail = format!("an order of {user}, paid for by {}", payment.user_id);
                found.push(self.finding(Kind::PaymentUserMismatch, user, detail));
            }
            if payment.amount != order.amount {
                let detail =
                    format!("an order of {}, but a payment of {}", order.amount, payment.amount);
                found.push(self.finding(Kind::PaymentAmountMismatch, user, detail));
            }
        }
        found.extend(self.status(order, now, limits));
        found
    }

    fn status(&self, order: &OrderRow, now: Now, limits: Limits) -> Option<Finding> {
        let decline = self.payments.first.as_ref().map(|payment| payment.decline_reason.as_deref());
        let (kind, detail) = match (order.status.as_str(), decline) {
            ("NEW", _) => return self.waiting(order, now, limits),
            ("FINISHED", Some(None)) => return None,
            ("FINISHED", None) => {
                (Kind::FinishedWithoutPayment, "FINISHED, but there is no payment".to_owned())
            }
            ("FINISHED", Some(Some(reason))) => (
                Kind::FinishedButDeclined,
                format!("FINISHED, but the payment was declined ({reason})"),
            ),
            ("CANCELLED", None) => {
                (Kind::CancelledWithoutPayment, "CANCELLED, but nothing was declined".to_owned())
            }
            ("CANCELLED", Some(None)) => {
                (Kind::CancelledButPaid, "CANCELLED, but it was paid".to_owned())
            }
            ("CANCELLED", Some(Some(reason))) => {
                let said = order.cancel_reason.as_deref().unwrap_or("no reason");
                if said == reason {
                    return None;
                }
                let detail = format!("CANCELLED for {said}, but declined for {reason}");
                (Kind::ReasonMismatch, detail)
            }
            (other, _) => (Kind::UnknownStatus, format!("the status is {other:?}")),
        };
        Some(self.finding(kind, order.user_id, detail))
    }

    /// Why the order is still NEW. Before there is a payment, the request must be on its way;
    /// after, the result: the request may be anywhere then, and moves nothing any more.
    fn waiting(&self, order: &OrderRow, now: Now, limits: Limits) -> Option<Finding> {
        let (age, message, name) = match &self.payments.first {
            None => (now.age(Side::Orders, order.created_at), self.request, "request"),
            Some(payment) => (now.age(Side::Payments, payment.created_at), self.result, "result"),
        };
        if age <= limits.new_order {
            return None;
        }
        let settled = self.payments.first.is_some();
        let seconds = age.as_secs();
        let (kind, detail) = if let Some(MessageRow { place, side, since, .. }) = message.alive {
            let waited = now.age(side, since);
            if waited <= limits.message {
                return None;
            }
            let (place, side, waited) = (place.as_str(), side.as_str(), waited.as_secs());
            let detail = format!("NEW: its {name} has waited {waited} s in {side}.{place}");
            (if settled { Kind::StuckResult } else { Kind::StuckRequest }, detail)
        } else if let Some(side) = message.dead {
            let detail = format!(
                "NEW: its {name} is among the dead letters of the {} database",
                side.as_str()
            );
            (if settled { Kind::DeadResult } else { Kind::DeadRequest }, detail)
        } else if settled {
            (Kind::ResultLost, format!("NEW, but settled {seconds} s ago, and no result waits"))
        } else {
            (Kind::RequestLost, format!("NEW for {seconds} s, and no request waits"))
        };
        Some(self.finding(kind, order.user_id, detail))
    }
}
