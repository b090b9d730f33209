//! The gRPC clients: the interfaces of the services, over a transport that is not chosen here.

mod orders;
mod payments;
mod watch;

use axum::http::StatusCode;
use gozon_api::Call;
use gozon_http::{Answered, Problem, REPLAYED, REQUEST_ID};
use tokio::time::Instant;
use tonic::{
    Request, Response, Status,
    body::Body,
    client::GrpcService,
    codegen::{Body as HttpBody, Bytes, StdError},
    metadata::AsciiMetadataValue,
};

pub use orders::OrdersClient;
pub use payments::PaymentsClient;

use crate::status::problem;

/// What a transport has to know of a call; it is in the extensions of its request.
#[derive(Clone, Copy, Debug)]
pub struct CallRules {
    /// Whether it may be sent again although it may have been received: it changes nothing, or the
    /// service knows it again by its key.
    pub repeatable: bool,
    /// Whether its response has no end.
    pub is_watch: bool,
    /// When the response, or its head if it has no end, must be there.
    pub deadline: Option<Instant>,
}

/// What carries calls to a service. Its errors are best a [`Status`].
pub trait Transport:
    GrpcService<
        Body,
        Error: Into<StdError> + Send,
        Future: Send,
        ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<T> Transport for T where
    T: GrpcService<
            Body,
            Error: Into<StdError> + Send,
            Future: Send,
            ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// The request for a call, which the service must answer by the call's deadline.
fn request<M>(call: &Call, repeatable: bool, message: M) -> Request<M> {
    let deadline = call.context.deadline;
    let mut request = watch_request(call, deadline, message);
    if let Some(deadline) = deadline {
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    }
    request.extensions_mut().insert(CallRules { repeatable, is_watch: false, deadline });
    request
}

/// The request for a watch, which must begin by the deadline.
fn watch_request<M>(call: &Call, deadline: Option<Instant>, message: M) -> Request<M> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    for (name, value) in
        [(REQUEST_ID, &*call.context.request_id), ("traceparent", &call.context.trace.to_string())]
    {
        if let Ok(mut value) = value.parse::<AsciiMetadataValue>() {
            // It is never seen again: header compression need not remember it.
            value.set_sensitive(true);
            metadata.insert(name, value);
        }
    }
    request.extensions_mut().insert(CallRules { repeatable: true, is_watch: true, deadline });
    request
}

/// The answer to a request that changes something.
fn answered<M, T>(
    answer: Result<Response<M>, Status>,
    read: impl FnOnce(M) -> Option<T>,
) -> Result<Answered<T>, Problem> {
    match answer {
        Ok(response) => {
            let replayed = response.metadata().contains_key(REPLAYED);
            let reply = read(response.into_inner()).ok_or_else(unreadable)?;
            Ok(Answered { answer: Ok(reply), replayed })
        }
        Err(status) => {
            let replayed = status.metadata().contains_key(REPLAYED);
            Ok(Answered { answer: Err(problem(&status)), replayed })
        }
    }
}

/// 502: the service answered something that can't be.
fn unreadable() -> Problem {
    let detail = "the service's answer could not be read";
    let problem = Problem::new(StatusCode::BAD_GATEWAY, "bad_gateway", detail);
    Problem { cause: Some("a field is missing, or has an impossible value".to_owned()), ..problem }
}
