//! The answer to a request that changes something. It can be stored and given again.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::Problem;

/// The response header, and the gRPC metadata, that says that an answer is a repeat.
pub const REPLAYED: &str = "idempotency-replayed";

/// What a request that changes something is answered with if it was done. As JSON it is the body.
pub trait Reply: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// 200 or 201.
    const STATUS: StatusCode;

    /// Where what was made is found, if it has a place of its own.
    fn location(&self) -> Option<String>;
}

/// What a use case answers: a reply, or that it decided against it, for good reason.
pub type Answer<R> = Result<R, Problem>;

/// An answer, and whether it was given before.
#[derive(Clone, Debug)]
pub struct Answered<R> {
    /// The answer.
    pub answer: Answer<R>,
    /// Whether it is a repeat, for the sake of an idempotency key.
    pub replayed: bool,
}

impl<R: Reply> IntoResponse for Answered<R> {
    fn into_response(self) -> Response<Body> {
        let mut response = match self.answer {
            Err(problem) => problem.into_response(),
            Ok(reply) => respond(&reply),
        };
        if self.replayed {
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

fn respond<R: Reply>(reply: &R) -> Response<Body> {
    let body = match serde_json::to_vec(reply) {
        Ok(body) => body,
        Err(error) => return Problem::internal(&error).into_response(),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = R::STATUS;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    if let Some(location) = reply.location().and_then(|path| path.try_into().ok()) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
