//! `payment.settled`: move the order on and say so, in one transaction. A repeat changes nothing.

use std::collections::HashMap;

use async_trait::async_trait;
use gozon_contract::{Clock, ORDER_CHANGED, ORDERS_SOURCE, Order, OrderId, PaymentSettled};
use gozon_messaging::{Event, HandleError, Handler, Message, TraceParent};
use gozon_store::Tx;

use crate::{sql, stream::Hub};

/// Applies the results of payments.
pub(crate) struct ApplyResults {
    pub(crate) clock: Clock,
    pub(crate) hub: Hub,
}

#[async_trait]
impl Handler for ApplyResults {
    async fn handle(&self, tx: &mut Tx, messages: &[Message]) -> Result<Vec<Message>, HandleError> {
        let mut results: HashMap<OrderId, (PaymentSettled, Option<TraceParent>)> = HashMap::new();
        for message in messages {
            let event = Event::<PaymentSettled>::read(message)?;
            results.insert(event.data.order_id, (event.data, event.traceparent));
        }
        let mut batch: Vec<_> = results.values().map(|(result, _)| result.clone()).collect();
        // One order for all instances: they lock the same rows in turn and never in a circle.
        batch.sort_unstable_by_key(|result| (result.user_id, result.order_id));

        let changed = sql::settle_orders(tx, &batch, self.clock.now()).await?;
        let took = metrics::histogram!("gozon_order_settle_seconds");
        for order in &changed {
            took.record(order.updated_at.since(order.created_at).as_secs_f64());
        }
        let messages: Vec<_> = changed
            .iter()
            .map(|order| {
                order_changed(order, results.remove(&order.id).and_then(|(_, trace)| trace))
            })
            .collect();
        for (result, _) in results.into_values() {
            check_repeat(tx, &result).await?;
        }
        Ok(messages)
    }

    fn committed(&self, sent: &Message) {
        self.hub.settled_here(sent);
    }
}

/// A result that moved nothing must be a repeat of the one that did.
async fn check_repeat(tx: &mut Tx, result: &PaymentSettled) -> Result<(), HandleError> {
    let id = result.order_id;
    match sql::find_order(tx, result.user_id, id).await? {
        None => Err(HandleError::Failed(format!("there is no order {id} of {}", result.user_id))),
        Some(order)
            if order.status != sql::status_after(result)
                || order.cancel_reason != result.outcome.reason() =>
        {
            let status = order.status.as_str();
            Err(HandleError::Failed(format!(
                "order {id} is {status}, which contradicts the result"
            )))
        }
        Some(_) => Ok(()),
    }
}

fn order_changed(order: &Order, trace: Option<TraceParent>) -> Message {
    let (id, user, time) = (order.id, order.user_id, order.updated_at);
    Event::about(id, ORDER_CHANGED.name, ORDERS_SOURCE, user, time, trace, order).into_message()
}

#[cfg(test)]
mod tests {
    use gozon_contract::{CancelReason, Description, Money, OrderStatus, Timestamp};

    use super::*;

    #[test]
    fn the_changed_order_is_as_published() {
        let order = Order {
            id: "019aa3d9-a47b-774c-8000-0123456789ab".parse().unwrap(),
            user_id: "6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e".parse().unwrap(),
            amount: Money::try_from(9_900).unwrap(),
            description: Description::try_from("A red kettle".to_owned()).unwrap(),
            status: OrderStatus::Cancelled,
            cancel_reason: Some(CancelReason::InsufficientFunds),
            version: 2,
            created_at: Timestamp::from_micros(1_763_683_200_123_456),
            updated_at: Timestamp::from_micros(1_763_683_200_130_000),
        };
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().ok();
        let message = order_changed(&order, trace);
        assert_eq!(message.topic, "order.changed");
        assert_eq!(message.key, "6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e");
        gozon_testkit::frozen(
            "api/events/order.changed.json",
            &gozon_testkit::pretty(&message.body),
        );
    }
}
