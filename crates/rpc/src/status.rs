//! Problems as gRPC statuses, and back.

use std::{borrow::Cow, collections::HashMap, time::Duration};

use axum::http::StatusCode;
use gozon_http::{FieldError, Problem};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

/// The `domain` of our errors.
const DOMAIN: &str = "gozon";

/// A kind of problem.
struct Kind {
    code: &'static str,
    /// The status over REST.
    rest: u16,
    /// The status over gRPC.
    grpc: Code,
    /// The field of the request that is at fault.
    field: Option<&'static str>,
}

const fn kind(code: &'static str, rest: u16, grpc: Code) -> Kind {
    Kind { code, rest, grpc, field: None }
}

const fn bad_field(code: &'static str, field: &'static str) -> Kind {
    Kind { code, rest: 400, grpc: Code::InvalidArgument, field: Some(field) }
}

/// Every kind of problem that a call may end with. No two share both the code and the gRPC status.
const KINDS: &[Kind] = &[
    bad_field("missing_user_id", "user_id"),
    bad_field("invalid_user_id", "user_id"),
    bad_field("invalid_order_id", "order_id"),
    bad_field("invalid_cursor", "page_token"),
    bad_field("invalid_idempotency_key", "idempotency_key"),
    kind("invalid_message", 400, Code::InvalidArgument),
    kind("body_too_large", 413, Code::InvalidArgument),
    kind("validation_failed", 422, Code::InvalidArgument),
    kind("idempotency_key_reused", 422, Code::FailedPrecondition),
    kind("balance_limit", 422, Code::FailedPrecondition),
    kind("account_exists", 409, Code::AlreadyExists),
    kind("account_not_found", 404, Code::NotFound),
    kind("order_not_found", 404, Code::NotFound),
    kind("too_many_sockets", 429, Code::ResourceExhausted),
    kind("too_many_sockets", 503, Code::Unavailable),
    kind("too_slow", 429, Code::ResourceExhausted),
    kind("restarting", 503, Code::Unavailable),
    kind("service_unavailable", 503, Code::Unavailable),
    kind("too_many_unsettled", 503, Code::Unavailable),
    kind("upstream_unavailable", 503, Code::Unavailable),
    kind("bad_gateway", 502, Code::Unavailable),
    kind("upstream_timeout", 504, Code::DeadlineExceeded),
    kind("internal_error", 500, Code::Internal),
];

/// A problem as a gRPC status.
pub fn status(problem: &Problem) -> Status {
    let kind = KINDS.iter().find(|kind| kind.code == problem.code && kind.rest == problem.status);
    let mut details = ErrorDetails::with_error_info(problem.code.as_ref(), DOMAIN, HashMap::new());
    let violation = |field: &str, reason: &str, detail: &str| FieldViolation {
        reason: reason.to_owned(),
        ..FieldViolation::new(field, detail)
    };
    let mut violations: Vec<_> = problem
        .errors
        .iter()
        .map(|error| violation(&error.field, &error.code, &error.detail))
        .collect();
    if let Some(field) = kind.and_then(|kind| kind.field) {
        violations.push(violation(field, &problem.code, &problem.detail));
    }
    if !violations.is_empty() {
        details.set_bad_request(violations);
    }
    if let Some(seconds) = problem.retry_after {
        details.set_retry_info(Some(Duration::from_secs(seconds.into())));
    }
    let code = kind.map_or(Code::Unknown, |kind| kind.grpc);
    Status::with_error_details(code, problem.detail.as_str(), details)
}

/// The problem that a status stands for. One that is not ours came from the way to the service.
pub fn problem(status: &Status) -> Problem {
    let details = status.get_error_details();
    let known = details.error_info().filter(|info| info.domain == DOMAIN).and_then(|info| {
        KINDS.iter().find(|kind| kind.code == info.reason && kind.grpc == status.code())
    });
    let Some(kind) = known else { return unknown(status) };
    let rest = StatusCode::from_u16(kind.rest).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut problem = Problem::new(rest, kind.code, status.message());
    let violations = details.bad_request().filter(|_| kind.field.is_none());
    for violation in violations.into_iter().flat_map(|request| &request.field_violations) {
        problem.errors.push(FieldError {
            field: violation.field.clone(),
            code: Cow::Owned(violation.reason.clone()),
            detail: violation.description.clone(),
        });
    }
    let delay = details.retry_info().and_then(|info| info.retry_delay);
    problem.retry_after = delay.and_then(|delay| u32::try_from(delay.as_secs()).ok());
    problem
}

fn unknown(status: &Status) -> Problem {
    let problem = match status.code() {
        Code::DeadlineExceeded => Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "upstream_timeout",
            "the service did not answer in time",
        ),
        _ => Problem::new(
            StatusCode::BAD_GATEWAY,
            "bad_gateway",
            "the connection to the service broke before it answered",
        ),
    };
    Problem { cause: Some(status.to_string()), ..problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_problem_comes_back_as_it_was() {
        for (n, kind) in KINDS.iter().enumerate() {
            let rest = StatusCode::from_u16(kind.rest).unwrap();
            let mut sent = Problem::new(rest, kind.code, "it's so: «да»");
            sent.retry_after = (n % 2 == 0).then_some(5);
            let status = status(&sent);
            assert_eq!(status.code(), kind.grpc);
            assert_eq!(problem(&status), sent, "{}", kind.code);
        }
    }

    #[test]
    fn invalid_fields_travel() {
        let error = |field: &str, code: &'static str| FieldError {
            field: field.to_owned(),
            code: Cow::Borrowed(code),
            detail: "must be 1".to_owned(),
        };
        let sent = Problem::invalid(vec![error("a", "required"), error("b", "wrong_type")]);
        assert_eq!(problem(&status(&sent)), sent);
        let sent = Problem::unreadable("invalid_user_id", "user_id must be one UUID");
        let status = status(&sent);
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "user_id");
        assert_eq!(details.error_info().unwrap().reason, "invalid_user_id");
    }

    #[test]
    fn what_is_not_ours_is_a_bad_gateway() {
        for foreign in [Status::unknown("?"), Status::unavailable("tcp"), Status::internal("x")] {
            let problem = problem(&foreign);
            assert_eq!((problem.status, problem.code.as_ref()), (502, "bad_gateway"));
            assert!(!problem.detail.contains('?') && problem.cause.is_some());
        }
        assert_eq!(problem(&Status::deadline_exceeded("")).status, 504);
    }
}
