//! Errors as RFC 9457 `application/problem+json`.

use std::borrow::Cow;

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::RestStatus;

/// The media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// The media type of gRPC, without the encoding that may follow.
pub(crate) const GRPC: &str = "application/grpc";

/// An error as a client sees it. Nothing internal goes in: no SQL, no path, no panic message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A URN that names the kind of problem; the same as `code`, but global.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What happened here, for a person.
    pub detail: String,
    /// What happened, for a program: stable, `snake_case`.
    pub code: Cow<'static, str>,
    /// The request it happened to, to be found in the logs.
    #[serde(default)]
    pub request_id: String,
    /// The invalid fields, if that is what the problem is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Sent as the `Retry-After` header, in seconds.
    #[serde(skip)]
    pub retry_after: Option<u32>,
    /// What went wrong inside: the [edge](crate::edge) logs it with the request's id; it is never
    /// sent.
    #[serde(skip)]
    pub cause: Option<String>,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// Its name.
    pub field: String,
    /// What is wrong, for a program.
    pub code: Cow<'static, str>,
    /// What is wrong, for a person.
    pub detail: String,
}

impl Problem {
    /// A problem of the kind `code`.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:gozon:problem:{code}"),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            code: Cow::Borrowed(code),
            request_id: String::new(),
            errors: Vec::new(),
            retry_after: None,
            cause: None,
        }
    }

    /// 400: the request can't be read.
    pub fn unreadable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 422: these fields can't be accepted.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] => format!("{}: {}", one.field, one.detail),
            many => format!("{} fields are invalid", many.len()),
        };
        let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed", detail);
        Self { errors, ..problem }
    }

    /// 500: our fault. The cause goes to the log, not to the client.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        let detail = "something went wrong on our side; it has been logged";
        let problem = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", detail);
        Self { cause: Some(cause.to_string()), ..problem }
    }

    /// 503: try again in a second.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", detail);
        Self { retry_after: Some(1), ..problem }
    }

    /// The same, and when to try again, in seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The complete response, for the request with this id.
    pub fn render(mut self, request_id: &str) -> Response<Body> {
        request_id.clone_into(&mut self.request_id);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// The same for a gRPC call that no service has taken: an error without details.
    pub(crate) fn render_grpc(&self) -> Response<Body> {
        // https://github.com/grpc/grpc/blob/master/doc/statuscodes.md
        let code = match self.status {
            404 | 405 => "12", // UNIMPLEMENTED
            _ => "13",         // INTERNAL
        };
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(RestStatus(self.status()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(GRPC));
        headers.insert("grpc-status", HeaderValue::from_static(code));
        headers.insert(
            "grpc-message",
            HeaderValue::from_static(if code == "12" {
                "no such method"
            } else {
                "internal error"
            }),
        );
        response
    }
}

impl IntoResponse for Problem {
    /// Travels in the response's extensions up to the [edge](crate::edge), which knows the
    /// request's id and renders it.
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status();
        response.extensions_mut().insert(self);
        response
    }
}
