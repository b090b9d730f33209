//! The answer to a request that changes something: it can be stored and given again.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use serde::{Deserialize, Serialize};

use crate::Problem;

/// What a use case answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was done.
    Done {
        /// 200 or 201.
        status: u16,
        /// Where what was made is found.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        location: Option<String>,
        /// JSON.
        body: String,
    },
    /// It was decided against, for good reason.
    Refused(Problem),
}

/// An answer, and whether it was given before.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The answer.
    pub answer: Answer,
    /// Whether it is a repeat, for the sake of an idempotency key.
    pub replayed: bool,
}

impl Answer {
    /// 200 with `body`.
    ///
    /// # Panics
    /// If `body` is no JSON value.
    pub fn ok(body: &impl Serialize) -> Self {
        let body = serde_json::to_string(body).expect("an answer is a JSON value");
        Self::Done { status: StatusCode::OK.as_u16(), location: None, body }
    }

    /// 201 with `body`, to be found at `location` if it has a place of its own.
    ///
    /// # Panics
    /// If `body` is no JSON value.
    pub fn created(body: &impl Serialize, location: Option<String>) -> Self {
        let body = serde_json::to_string(body).expect("an answer is a JSON value");
        Self::Done { status: StatusCode::CREATED.as_u16(), location, body }
    }
}

impl IntoResponse for Answered {
    fn into_response(self) -> Response<Body> {
        let mut response = match self.answer {
            Answer::Refused(problem) => problem.into_response(),
            Answer::Done { status, location, body } => {
                let mut response = Response::new(Body::from(body));
                *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                if let Some(location) = location.and_then(|path| path.try_into().ok()) {
                    response.headers_mut().insert(header::LOCATION, location);
                }
                response
            }
        };
        if self.replayed {
            let yes = HeaderValue::from_static("true");
            response.headers_mut().insert("idempotency-replayed", yes);
        }
        response
    }
}
