//! The data of the events that travel between the services. Each type is also its topic.

use serde::{Deserialize, Serialize};

use crate::{CancelReason, Money, OrderId, UserId};

/// The CloudEvents `source` of what the orders service says.
pub const ORDERS_SOURCE: &str = "/orders";
/// The CloudEvents `source` of what the payments service says.
pub const PAYMENTS_SOURCE: &str = "/payments";

/// Where messages of one type go. Its name is the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topic {
    /// The topic's name and the type of every event on it.
    pub name: &'static str,
    /// Who gets a message.
    pub delivery: Delivery,
}

/// Who gets a message of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// One of the instances that consume the topic. It waits durably while there is none.
    Competing,
    /// Every instance that is listening at the time.
    Broadcast,
}

/// [`PaymentRequested`], from orders to payments.
pub const PAYMENT_REQUESTED: Topic =
    Topic { name: "payment.requested", delivery: Delivery::Competing };
/// [`PaymentSettled`], from payments to orders.
pub const PAYMENT_SETTLED: Topic = Topic { name: "payment.settled", delivery: Delivery::Competing };
/// A changed [`Order`](crate::Order), to every orders instance.
pub const ORDER_CHANGED: Topic = Topic { name: "order.changed", delivery: Delivery::Broadcast };

/// An order was placed and wants to be paid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentRequested {
    /// Which order.
    pub order_id: OrderId,
    /// Whose account pays.
    pub user_id: UserId,
    /// How much.
    pub amount: Money,
}

/// A payment was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentSettled {
    /// Which order.
    pub order_id: OrderId,
    /// Whose order.
    pub user_id: UserId,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a payment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Outcome {
    /// The account was debited.
    Paid,
    /// Nothing was debited.
    Declined {
        /// Why not.
        reason: CancelReason,
    },
}

impl Outcome {
    /// Why it was declined; `None` if it was paid.
    pub const fn reason(self) -> Option<CancelReason> {
        match self {
            Self::Paid => None,
            Self::Declined { reason } => Some(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_events_have_the_agreed_shape() {
        let id = "018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f";
        let paid = serde_json::json!({"order_id": id, "user_id": id, "outcome": "paid"});
        let declined = serde_json::json!(
            {"order_id": id, "user_id": id, "outcome": "declined", "reason": "no_account"}
        );
        for json in [paid, declined] {
            let event: PaymentSettled = serde_json::from_value(json.clone()).unwrap();
            assert_eq!(serde_json::to_value(event).unwrap(), json);
        }
        let requested = serde_json::json!({"order_id": id, "user_id": id, "amount": 100});
        let event: PaymentRequested = serde_json::from_value(requested.clone()).unwrap();
        assert_eq!(serde_json::to_value(event).unwrap(), requested);
    }
}
