//! The gRPC servers: what every call passes, and the routes of each service.

mod deadline;
mod health;
mod orders;
mod payments;

use std::{borrow::Cow, convert::Infallible, sync::Arc};

use axum::{Router, extract::Request, middleware::from_fn, response::IntoResponse};
use gozon_api::{Call, OrdersApi, PaymentsApi};
use gozon_contract::UserId;
use gozon_http::{
    Answered, BODY_LIMIT, FieldError, Health, IdempotencyKey, Problem, REPLAYED, RequestContext,
};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status, metadata::MetadataValue, server::NamedService};
use tower::Service;

use crate::{
    proto::{
        DESCRIPTORS, orders::orders_service_server::OrdersServiceServer,
        payments::payments_service_server::PaymentsServiceServer,
    },
    status::status,
};

/// The gRPC side of the orders service: its calls, health and reflection. `stop` ends the watches.
pub fn orders(orders: Arc<dyn OrdersApi>, health: Health, stop: CancellationToken) -> Router {
    let server = OrdersServiceServer::new(orders::Server { orders, stop });
    routes(&server.max_decoding_message_size(BODY_LIMIT), health)
}

/// The gRPC side of the payments service: its calls, health and reflection.
pub fn payments(payments: Arc<dyn PaymentsApi>, health: Health) -> Router {
    let server = PaymentsServiceServer::new(payments::Server { payments });
    routes(&server.max_decoding_message_size(BODY_LIMIT), health)
}

fn routes<S>(server: &S, health: Health) -> Router
where
    S: Service<Request, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
    S::Response: IntoResponse,
    S::Future: Send + 'static,
{
    // A route for each method, so that metrics tell them apart.
    let descriptors = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
    let files = descriptors.file.iter();
    let services = files.flat_map(|file| file.service.iter().map(move |s| (file.package(), s)));
    let mut calls = Router::new();
    for (package, service) in services {
        let name = format!("{package}.{}", service.name());
        for method in service.method.iter().filter(|_| name == S::NAME) {
            calls = calls.route_service(&format!("/{name}/{}", method.name()), server.clone());
        }
    }
    calls.layer(from_fn(deadline::keep)).merge(health::routes(S::NAME, health))
}

/// Why a call fails.
struct Refusal {
    problem: Problem,
    /// It is a repeat, for the sake of an idempotency key.
    replayed: bool,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { problem, replayed: false }
    }
}

/// Runs a call and answers it. What went wrong inside is logged here and not sent.
async fn answer<M, R, F>(
    request: tonic::Request<M>,
    run: impl FnOnce(RequestContext, M) -> F,
) -> Result<Response<R>, Status>
where
    F: Future<Output = Result<Response<R>, Refusal>>,
{
    let (_, extensions, message) = request.into_parts();
    let Some(context) = extensions.get::<RequestContext>() else {
        return Err(Status::internal("a request without a context"));
    };
    run(context.clone(), message).await.map_err(|Refusal { problem, replayed }| {
        if problem.status().is_server_error() {
            let (request_id, cause) = (&context.request_id, &problem.cause);
            tracing::warn!(%request_id, status = problem.status, cause, "refused a call");
        }
        let mut status = status(&problem);
        if replayed {
            status.metadata_mut().insert(REPLAYED, MetadataValue::from_static("true"));
        }
        status
    })
}

/// The answer to a request that changes something.
fn answered<T, R>(
    answered: Answered<T>,
    reply: impl FnOnce(T) -> R,
) -> Result<Response<R>, Refusal> {
    let Answered { answer, replayed } = answered;
    let mut response =
        Response::new(reply(answer.map_err(|problem| Refusal { problem, replayed })?));
    if replayed {
        response.metadata_mut().insert(REPLAYED, MetadataValue::from_static("true"));
    }
    Ok(response)
}

/// A call of the user whose id a message has.
fn call(context: RequestContext, user_id: &str) -> Result<Call, Problem> {
    if user_id.is_empty() {
        return Err(Problem::unreadable("missing_user_id", "user_id is missing"));
    }
    let user: UserId = user_id
        .parse()
        .map_err(|_| Problem::unreadable("invalid_user_id", "user_id must be one UUID"))?;
    Ok(Call { user, context })
}

fn key(key: Option<String>) -> Result<Option<IdempotencyKey>, Problem> {
    key.map(|key| key.parse()).transpose()
}

/// What is wrong with a field's value.
fn out_of_range(field: &str, detail: &impl ToString) -> FieldError {
    FieldError {
        field: field.to_owned(),
        code: Cow::Borrowed("out_of_range"),
        detail: detail.to_string(),
    }
}

/// The most items of a page: 20 if it is 0.
fn page_size(size: i32) -> Result<usize, Problem> {
    match size {
        0 => Ok(20),
        1..=100 => Ok(usize::try_from(size).unwrap_or(100)),
        _ => Err(Problem::invalid(vec![out_of_range("page_size", &"must be 1 to 100")])),
    }
}

/// Reads a page token; the empty one is none.
fn page_token<T>(token: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, Problem> {
    if token.is_empty() {
        return Ok(None);
    }
    let invalid = || Problem::unreadable("invalid_cursor", "this page token was not made here");
    read(token).map(Some).ok_or_else(invalid)
}
