//! `POST /orders`: place an order. The order and the request for its payment are one transaction.

use std::sync::Arc;

use async_trait::async_trait;
use axum::{Extension, extract::State, http::HeaderMap};
use gozon_contract::{
    Description, Money, ORDERS_SOURCE, Order, OrderId, OrderStatus, PAYMENT_REQUESTED,
    PaymentRequested, TraceParent, UserId,
};
use gozon_http::{Answer, Answered, CurrentUser, Fields, Problem, RequestContext};
use gozon_messaging::{Decision, Event, Failure, Mode, Outgoing, UseCase};
use gozon_seam::mutation;
use gozon_service::{IdempotencyKey, find_answer};
use gozon_store::Reader;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{recent::Recent, service::App, sql, stream::Subscriptions};

/// What to order.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct NewOrder {
    /// What it costs, in minor units.
    amount: Money,
    /// What it is.
    description: Description,
}

/// An order to be placed, and the trace that it is part of.
#[derive(Debug)]
pub(crate) struct Placement {
    order: Arc<Order>,
    trace: TraceParent,
}

/// Places orders.
pub(crate) struct PlaceOrders {
    pub(crate) recent: Recent,
    pub(crate) subscriptions: Subscriptions,
}

#[async_trait]
impl UseCase for PlaceOrders {
    type Command = Placement;
    type Reply = Answer;

    async fn decide(
        &self,
        _: &mut Reader,
        _: Mode,
        placements: &[&Placement],
    ) -> Result<Decision<Answer>, Failure> {
        let orders: Vec<_> = placements.iter().map(|placed| Arc::clone(&placed.order)).collect();
        let traces: Vec<_> = placements.iter().map(|placed| placed.trace).collect();
        let reply =
            |order: &Arc<Order>| Answer::created(&**order, Some(format!("/orders/{}", order.id)));
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

/// Place an order
///
/// The order is NEW at first; it is paid for in the background and becomes FINISHED, or CANCELLED
/// with the reason.
#[utoipa::path(
    post,
    path = "/orders",
    tag = "orders",
    params(
        ("X-User-Id" = Uuid, Header, description = "The user"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$", description = "A repeat with the same key does nothing twice"),
    ),
    request_body = NewOrder,
    responses(
        (status = 201, description = "The order", body = Order, headers(("Location" = String, description = "Where it is found"))),
        (status = 400, description = "`missing_user_id`, `invalid_user_id`, `invalid_json`, `invalid_idempotency_key`", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`body_too_large`", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported_media_type`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`validation_failed`, `idempotency_key_reused`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`service_unavailable`, `too_many_unsettled`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn place(
    State(app): State<App>,
    CurrentUser(user_id): CurrentUser,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    mut fields: Fields,
) -> Result<Answered, Problem> {
    let amount = fields.money("amount");
    let description = fields.description("description");
    let (amount, description) = fields.finish(amount.zip(description))?;
    let request = NewOrder { amount, description };
    let key = IdempotencyKey::of(&headers, "POST /orders", &request)?;
    if let Err(closed) = app.intake.check() {
        // A repeat of an order that was placed is no new one.
        let placed = match &key {
            Some(_) if mutation!("no repeats while no new orders are taken") => None,
            Some(key) => find_answer(&app.db, user_id, key).await?,
            None => None,
        };
        return placed.ok_or(closed);
    }

    let now = app.clock.now();
    let order = Order {
        id: OrderId::new(now, &app.random),
        user_id,
        amount,
        description: request.description,
        status: OrderStatus::New,
        cancel_reason: None,
        version: 1,
        created_at: now,
        updated_at: now,
    };
    let placement = Placement { order: Arc::new(order), trace: context.trace };
    app.place.submit(user_id, key, placement).await
}

#[cfg(test)]
mod tests {
    use gozon_contract::Timestamp;

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
