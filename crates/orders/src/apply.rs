//! `payment.settled`: move the order on and say so, in one transaction. A repeat changes nothing.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use gozon_contract::{
    Clock, ORDER_CHANGED, ORDERS_SOURCE, Order, OrderId, OrderStatus, PaymentSettled, Timestamp,
    TraceParent, UserId,
};
use gozon_messaging::{Decision, Event, HandleError, Handler, Message};
use gozon_store::Tx;

use crate::{recent::Recent, sql, stream::Hub};

/// Applies the results of payments.
pub(crate) struct ApplyResults {
    pub(crate) clock: Clock,
    pub(crate) recent: Recent,
    pub(crate) hub: Hub,
}

/// A result, and the trace that it is part of.
type Traced = (PaymentSettled, Option<TraceParent>);

#[async_trait]
impl Handler for ApplyResults {
    async fn handle(
        &self,
        tx: &mut Tx,
        messages: &[Message],
        careful: bool,
    ) -> Result<Decision, HandleError> {
        // One order for all instances: they lock the same rows in turn and never in a circle.
        let mut results: BTreeMap<(UserId, OrderId), Traced> = BTreeMap::new();
        for message in messages {
            let event = Event::<PaymentSettled>::read(message)?;
            let key = (event.data.user_id, event.data.order_id);
            results.insert(key, (event.data, event.traceparent));
        }
        let mut orders = self.recent.take(results.keys().map(|(_, order)| *order));
        if careful {
            orders.clear();
        }
        let unknown: Vec<_> =
            results.keys().filter(|(_, order)| !orders.contains_key(order)).copied().collect();
        if !unknown.is_empty() {
            orders.extend(sql::orders_of(tx, &unknown).await?);
        }
        let changed = move_on(&orders, results.into_values(), self.clock.now())?;

        let took = metrics::histogram!("gozon_order_settle_seconds");
        for (order, _) in &changed {
            took.record(order.updated_at.since(order.created_at).as_secs_f64());
        }
        if changed.is_empty() {
            return Ok(Decision::default());
        }
        Ok(Decision {
            statements: vec![sql::move_orders(&changed)],
            messages: changed.iter().map(|(order, trace)| order_changed(order, *trace)).collect(),
        })
    }

    fn committed(&self, sent: &mut dyn Iterator<Item = &Message>) {
        sent.for_each(|message| self.hub.settled_here(message));
    }
}

/// The orders that results move from NEW to where their payment puts them. A result that finds its
/// order moved already must be a repeat of the one that did it.
fn move_on(
    orders: &HashMap<OrderId, Order>,
    results: impl Iterator<Item = Traced>,
    now: Timestamp,
) -> Result<Vec<(Order, Option<TraceParent>)>, HandleError> {
    let mut changed = Vec::new();
    for (result, trace) in results {
        let (id, user, cancel_reason) = (result.order_id, result.user_id, result.outcome.reason());
        let Some(order) = orders.get(&id).filter(|order| order.user_id == user) else {
            return Err(HandleError::Failed(format!("there is no order {id} of {user}")));
        };
        let status = match cancel_reason {
            None => OrderStatus::Finished,
            Some(_) => OrderStatus::Cancelled,
        };
        if order.status == OrderStatus::New {
            let version = order.version + 1;
            let order = Order { status, cancel_reason, version, updated_at: now, ..order.clone() };
            changed.push((order, trace));
        } else if (order.status, order.cancel_reason) != (status, cancel_reason) {
            let status = order.status.as_str();
            return Err(HandleError::Failed(format!(
                "order {id} is {status}, which contradicts the result"
            )));
        }
    }
    Ok(changed)
}

fn order_changed(order: &Order, trace: Option<TraceParent>) -> Message {
    let (id, user, time) = (order.id, order.user_id, order.updated_at);
    Event::about(id, ORDER_CHANGED.name, ORDERS_SOURCE, user, time, trace, order).into_message()
}

#[cfg(test)]
mod tests {
    use gozon_contract::{CancelReason, Description, Money};

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
