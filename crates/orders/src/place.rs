//! `POST /orders`: place an order. The order and the request for its payment are one transaction.

use async_trait::async_trait;
use axum::{Extension, extract::State, http::HeaderMap};
use gozon_contract::{
    Description, Money, ORDERS_SOURCE, Order, OrderId, OrderStatus, PAYMENT_REQUESTED,
    PaymentRequested, TraceParent,
};
use gozon_http::{Answer, Answered, CurrentUser, Fields, Problem, RequestContext};
use gozon_messaging::{Event, Message, Outbox};
use gozon_service::{Decided, IdempotencyKey, UseCase};
use gozon_store::{Result, Tx};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{recent::Recent, service::App, sql};

/// What to order.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct NewOrder {
    /// What it costs, in minor units.
    amount: Money,
    /// What it is.
    description: Description,
}

/// An order to be placed, and the trace that it is part of.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    order: Order,
    trace: TraceParent,
}

/// Places orders.
pub(crate) struct PlaceOrders {
    pub(crate) outbox: Outbox,
    pub(crate) recent: Recent,
}

#[async_trait]
impl UseCase for PlaceOrders {
    type Request = Placement;

    async fn decide(&self, _: &mut Tx, placements: &[Placement]) -> Result<Decided> {
        let answer = |Placement { order, .. }: &Placement| {
            Answer::created(order, Some(format!("/orders/{}", order.id)))
        };
        self.recent.remember(placements.iter().map(|placed| &placed.order));
        Ok(Decided {
            answers: placements.iter().map(answer).collect(),
            statements: vec![sql::insert_orders(placements.iter().map(|placed| &placed.order))],
            added: Some(self.outbox.add(placements.iter().map(payment_requested).collect())),
        })
    }
}

fn payment_requested(placement: &Placement) -> Message {
    let Order { id, user_id, amount, created_at, .. } = placement.order;
    let data = PaymentRequested { order_id: id, user_id, amount };
    let topic = PAYMENT_REQUESTED.name;
    let trace = Some(placement.trace);
    Event::about(id, topic, ORDERS_SOURCE, user_id, created_at, trace, data).into_message()
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
        (status = 503, description = "`service_unavailable`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn place(
    State(app): State<App>,
    CurrentUser(user_id): CurrentUser,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    mut fields: Fields,
) -> std::result::Result<Answered, Problem> {
    let amount = fields.money("amount");
    let description = fields.description("description");
    let (amount, description) = fields.finish(amount.zip(description))?;
    let request = NewOrder { amount, description };
    let key = IdempotencyKey::of(&headers, "POST /orders", &request)?;

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
    let placement = Placement { order: order.clone(), trace: context.trace };
    let answered = app.place.submit(user_id, key, placement).await?;
    if !answered.replayed && matches!(answered.answer, Answer::Done { .. }) {
        app.hub.placed(&order, context.trace);
    }
    Ok(answered)
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
        let message = payment_requested(&Placement { order, trace });
        assert_eq!(message.topic, "payment.requested");
        assert_eq!(message.key, "6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e");
        gozon_testkit::frozen(
            "api/events/payment.requested.json",
            &gozon_testkit::pretty(&message.body),
        );
    }
}
