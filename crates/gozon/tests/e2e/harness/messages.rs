//! What somebody else on the broker could send.

use std::sync::Arc;

use gozon_contract::{
    CancelReason, Clock, Money, ORDER_CHANGED, ORDERS_SOURCE, Outcome, PAYMENT_REQUESTED,
    PAYMENT_SETTLED, PAYMENTS_SOURCE, PaymentRequested, PaymentSettled, RandomSource, Topic,
};
use gozon_messaging::{Batch, Broker, Event};
use serde::Serialize;
use uuid::Uuid;

use super::{Shop, truth};

const TOPICS: &[Topic] = &[PAYMENT_REQUESTED, PAYMENT_SETTLED, ORDER_CHANGED];

/// A client of the shop's broker.
pub fn broker_of(shop: &Shop) -> Arc<dyn Broker> {
    let broker =
        gozon_messaging::broker::connect(&shop.broker_url, TOPICS, &RandomSource::system());
    broker.expect("a broker URL")
}

/// The request for an order's payment, as it was sent.
pub fn payment_requested(order: &truth::Order) -> Batch {
    let data = PaymentRequested {
        order_id: order.id.into(),
        user_id: order.user_id.into(),
        amount: Money::try_from(order.amount).expect("an amount"),
    };
    let topic = PAYMENT_REQUESTED.name;
    event(topic, ORDERS_SOURCE, order.id, order.user_id, data)
}

/// The result of a payment, as it was sent.
pub fn payment_settled(payment: &truth::Payment) -> Batch {
    let reason = payment.decline_reason.as_deref();
    let reason = reason.map(|reason| reason.parse::<CancelReason>().expect("a reason"));
    let data = PaymentSettled {
        order_id: payment.order_id.into(),
        user_id: payment.user_id.into(),
        outcome: reason.map_or(Outcome::Paid, |reason| Outcome::Declined { reason }),
    };
    let topic = PAYMENT_SETTLED.name;
    event(topic, PAYMENTS_SOURCE, payment.order_id, payment.user_id, data)
}

fn event<T: Serialize>(topic: &str, source: &str, order: Uuid, user: Uuid, data: T) -> Batch {
    let event = Event {
        topic,
        source,
        subject: order,
        partition_key: user,
        time: Clock::system().now(),
        traceparent: None,
        data,
    };
    let message = event.to_message();
    Batch { id: message.id, topic: message.topic, body: message.body }
}
