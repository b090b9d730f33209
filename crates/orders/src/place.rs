//! Placing orders: an order and the request for its payment are one transaction.

use std::sync::Arc;

use async_trait::async_trait;
use gozon_api::orders::Placed;
use gozon_contract::{
    ORDERS_SOURCE, Order, OrderId, PAYMENT_REQUESTED, PaymentRequested, TraceParent, UserId,
};
use gozon_http::Answer;
use gozon_messaging::{Decision, Event, Failure, Mode, Outgoing, UseCase};
use gozon_store::Reader;

use crate::{recent::Recent, sql, stream::Subscriptions};

/// An order to be placed, and the trace that it is part of.
#[derive(Debug)]
pub(crate) struct Placement {
    pub(crate) order: Arc<Order>,
    pub(crate) trace: TraceParent,
}

/// Places orders.
pub(crate) struct PlaceOrders {
    pub(crate) recent: Recent,
    pub(crate) subscriptions: Subscriptions,
}

#[async_trait]
impl UseCase for PlaceOrders {
    type Command = Placement;
    type Reply = Answer<Placed>;

    async fn decide(
        &self,
        _: &mut Reader,
        _: Mode,
        placements: &[&Placement],
    ) -> Result<Decision<Answer<Placed>>, Failure> {
        let orders: Vec<_> = placements.iter().map(|placed| Arc::clone(&placed.order)).collect();
        let traces: Vec<_> = placements.iter().map(|placed| placed.trace).collect();
        let reply = |order: &Arc<Order>| Ok(Placed((**order).clone()));
        let mut outgoing = Outgoing::default();
        for Placement { order, trace } in placements {
            outgoing.push(&payment_requested(order, Some(*trace)));
        }
        Ok(Decision {
            replies: orders.iter().map(reply).collect(),
            writes: vec![sql::insert_orders(&orders)],
            outgoing,
            after_commit: Some({
                let (recent, subscriptions) = (self.recent.clone(), self.subscriptions.clone());
                Box::new(move || {
                    recent.remember(&orders);
                    for (order, trace) in orders.iter().zip(traces) {
                        subscriptions.placed(order, trace);
                    }
                })
            }),
        })
    }
}

/// The request for an order's payment.
pub(crate) fn payment_requested(
    order: &Order,
    traceparent: Option<TraceParent>,
) -> Event<'static, OrderId, UserId, PaymentRequested> {
    let Order { id, user_id, amount, created_at, .. } = *order;
    Event {
        topic: PAYMENT_REQUESTED.name,
        source: ORDERS_SOURCE,
        subject: id,
        partition_key: user_id,
        time: created_at,
        traceparent,
        data: PaymentRequested { order_id: id, user_id, amount },
    }
}

#[cfg(test)]
mod tests {
    use gozon_contract::{Description, Money, OrderStatus, Timestamp};

    use super::*;

    #[test]
    fn the_request_for_payment_is_as_published() {
        let now = Timestamp::from_micros(1_763_683_200_123_456);
        let order = Order {
            id: "019aa3d9-a47b-774c-8000-0123456789ab".parse().unwrap(),
            user_id: "6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e".parse().unwrap(),
            amount: Money::try_from(9_900).unwrap(),
            description: Description::try_from("A red kettle".to_owned()).unwrap(),
            status: OrderStatus::New,
            cancel_reason: None,
            version: 1,
            created_at: now,
            updated_at: now,
        };
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap();
        let message = payment_requested(&order, Some(trace)).to_message();
        assert_eq!(message.topic, "payment.requested");
        assert_eq!(message.key, "6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e");
        gozon_testkit::frozen(
            "api/events/payment.requested.json",
            &gozon_testkit::pretty(&message.body),
        );
    }
}
