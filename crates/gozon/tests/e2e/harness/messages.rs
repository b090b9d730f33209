//! What somebody else on the broker could send.

use std::sync::Arc;

use gozon_contract::{
    CancelReason, Clock, Money, ORDER_CHANGED, ORDERS_SOURCE, Outcome, PAYMENT_REQUESTED,
    PAYMENT_SETTLED, PAYMENTS_SOURCE, PaymentRequested, PaymentSettled, RandomSource, Topic,
};
use gozon_messaging::{Batch, Broker, Event, Message};

use super::{Shop, truth};

const TOPICS: &[Topic] = &[PAYMENT_REQUESTED, PAYMENT_SETTLED, ORDER_CHANGED];

/// A client of the shop's broker.
pub fn broker_of(shop: &Shop) -> Arc<dyn Broker> {
    let broker =
        gozon_messaging::broker::connect(&shop.broker_url, TOPICS, &RandomSource::system());
    broker.expect("a broker URL")
}

/// The request for an order's payment, as it was sent.
pub fn payment_requested(order: &truth::Order) -> Message {
    let data = PaymentRequested {
        order_id: order.id.into(),
        user_id: order.user_id.into(),
        amount: Money::try_from(order.amount).expect("an amount"),
    };
    let (topic, source, time) = (PAYMENT_REQUESTED.name, ORDERS_SOURCE, Clock::system().now());
    let (subject, partition_key) = (order.id, order.user_id);
    Event { topic, source, subject, partition_key, time, traceparent: None, data }.to_message()
}

/// The result of a payment, as it was sent.
pub fn payment_settled(payment: &truth::Payment) -> Message {
    let reason = payment.decline_reason.as_deref();
    let reason = reason.map(|reason| reason.parse::<CancelReason>().expect("a reason"));
    let data = PaymentSettled {
        order_id: payment.order_id.into(),
        user_id: payment.user_id.into(),
        outcome: reason.map_or(Outcome::Paid, |reason| Outcome::Declined { reason }),
    };
    let (topic, source, time) = (PAYMENT_SETTLED.name, PAYMENTS_SOURCE, Clock::system().now());
    let (subject, partition_key) = (payment.order_id, payment.user_id);
    Event { topic, source, subject, partition_key, time, traceparent: None, data }.to_message()
}

/// An event by itself, in a delivery with this id.
pub fn alone(id: String, event: Message) -> Batch {
    Batch { id, topic: event.topic, body: event.body }
}
