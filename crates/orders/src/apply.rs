//! `payment.settled`: move the order on and say so, in one transaction. A repeat changes nothing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use gozon_contract::{
    Clock, ORDER_CHANGED, ORDERS_SOURCE, Order, OrderId, OrderStatus, PaymentSettled, Timestamp,
    TraceParent, UserId,
};
use gozon_messaging::{Decision, Event, Failure, Mode, Outgoing, Received, UseCase};
use gozon_seam::mutation;
use gozon_store::Reader;

use crate::{recent::Recent, sql, stream::Subscriptions, unsettled::Intake};

/// Applies the results of payments.
pub(crate) struct ApplyResults {
    pub(crate) clock: Clock,
    pub(crate) recent: Recent,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) intake: Intake,
}

#[async_trait]
impl UseCase for ApplyResults {
    type Command = Received<PaymentSettled>;
    type Reply = ();

    async fn decide(
        &self,
        reader: &mut Reader,
        mode: Mode,
        events: &[&Received<PaymentSettled>],
    ) -> Result<Decision<()>, Failure> {
        // One order for all instances: they lock the same rows in turn and never in a circle.
        let results: BTreeMap<_, _> = events
            .iter()
            .map(|event| ((event.data.user_id, event.data.order_id), *event))
            .collect();
        let mut orders = match mode {
            Mode::Optimistic => self.recent.get(results.keys().map(|(_, order)| *order)),
            Mode::Locking => HashMap::new(),
        };
        let unknown: Vec<_> =
            results.keys().filter(|(_, order)| !orders.contains_key(order)).copied().collect();
        if !unknown.is_empty() {
            orders.extend(sql::orders_of(reader, &unknown).await?);
        }
        let changed = move_on(&orders, results.into_values(), self.clock.now())?;

        let mut outgoing = Outgoing::default();
        for (order, trace) in &changed {
            if !mutation!("only the instance that settles tells its sockets") {
                outgoing.push(&order_changed(order, *trace));
            }
        }
        let writes = if changed.is_empty() { Vec::new() } else { vec![sql::move_orders(&changed)] };
        let (recent, subscriptions) = (self.recent.clone(), self.subscriptions.clone());
        let intake = self.intake.clone();
        Ok(Decision {
            replies: vec![(); events.len()],
            writes,
            outgoing,
            after_commit: Some(Box::new(move || {
                recent.forget(changed.iter().map(|(order, _)| order.id));
                intake.settled(changed.iter().map(|(order, _)| order));
                let took = metrics::histogram!("gozon_order_settle_seconds");
                for (order, trace) in &changed {
                    took.record(order.updated_at.since(order.created_at).as_secs_f64());
                    subscriptions.settled_here(order, *trace);
                }
            })),
        })
    }
}

/// The orders that results move from NEW to where their payment puts them. A result that finds its
/// order moved already must be a repeat of the one that did it.
fn move_on<'a>(
    orders: &HashMap<OrderId, Arc<Order>>,
    results: impl Iterator<Item = &'a Received<PaymentSettled>>,
    now: Timestamp,
) -> Result<Vec<(Order, Option<TraceParent>)>, Failure> {
    let mut changed = Vec::new();
    for Received { data, traceparent } in results {
        let (id, user, cancel_reason) = (data.order_id, data.user_id, data.outcome.reason());
        let Some(order) = orders.get(&id).filter(|order| order.user_id == user) else {
            return Err(Failure::Refused(format!("there is no order {id} of {user}")));
        };
        let status = match cancel_reason {
            None => OrderStatus::Finished,
            Some(_) => OrderStatus::Cancelled,
        };
        if order.status == OrderStatus::New || mutation!("a result applied again") {
            let version = order.version + 1;
            let order =
                Order { status, cancel_reason, version, updated_at: now, ..(**order).clone() };
            changed.push((order, *traceparent));
        } else if (order.status, order.cancel_reason) != (status, cancel_reason) {
            let status = order.status.as_str();
            return Err(Failure::Refused(format!(
                "order {id} is {status}, which contradicts the result"
            )));
        }
    }
    Ok(changed)
}

fn order_changed(
    order: &Order,
    traceparent: Option<TraceParent>,
) -> Event<'static, OrderId, UserId, &Order> {
    Event {
        topic: ORDER_CHANGED.name,
        source: ORDERS_SOURCE,
        subject: order.id,
        partition_key: order.user_id,
        time: order.updated_at,
        traceparent,
        data: order,
    }
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
        let message = order_changed(&order, trace).to_message();
        assert_eq!(message.topic, "order.changed");
        assert_eq!(message.key, "6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e");
        gozon_testkit::frozen(
            "api/events/order.changed.json",
            &gozon_testkit::pretty(&message.body),
        );
    }
}
