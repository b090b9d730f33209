//! What every call passes: its deadline, and errors that tonic makes by itself.

use std::time::Duration;

use axum::{
    extract::Request,
    http::{HeaderMap, StatusCode},
    middleware::Next,
    response::Response,
};
use gozon_http::{Problem, RequestContext, RestStatus};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use crate::status::{problem, status};

/// The most digits of a timeout.
const MAX_TIMEOUT_DIGITS: usize = 8;

/// Keeps the deadline of `grpc-timeout`: work that has not begun when it passes is dropped.
///
/// tonic does so only in a server of its own.
pub(super) async fn keep(mut request: Request, next: Next) -> Response {
    let deadline = timeout(request.headers()).map(|timeout| Instant::now() + timeout);
    if let Some(context) = request.extensions_mut().get_mut::<RequestContext>() {
        context.deadline = deadline;
    }
    let answer = next.run(request);
    let answered = match deadline {
        Some(deadline) => timeout_at(deadline, answer).await,
        None => Ok(answer.await),
    };
    match answered {
        Ok(response) => restate(response),
        Err(_) => refuse(&status(&timed_out())),
    }
}

/// 504: the deadline has passed.
pub(super) fn timed_out() -> Problem {
    let detail = "the service did not answer in time";
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", detail)
}

/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>. What can't be read is ignored.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 =
        (is_number && digits.len() <= MAX_TIMEOUT_DIGITS).then(|| digits.parse().ok())??;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// An error without details is one that tonic made by itself, because it could not read the request.
fn restate(mut response: Response) -> Response {
    let headers = response.headers();
    let Some(code) = headers.get("grpc-status") else { return response };
    if headers.contains_key("grpc-status-details-bin") {
        if let Some(status) = Status::from_header_map(headers) {
            response.extensions_mut().insert(RestStatus(problem(&status).status()));
        }
        return response;
    }
    match Code::from_bytes(code.as_bytes()) {
        Code::OutOfRange => {
            let detail = "the message is larger than 65536 bytes";
            let status_code = StatusCode::PAYLOAD_TOO_LARGE;
            refuse(&status(&Problem::new(status_code, "body_too_large", detail)))
        }
        Code::Internal | Code::Unknown => {
            let detail = "this is not a message that can be read";
            refuse(&status(&Problem::unreadable("invalid_message", detail)))
        }
        _ => response,
    }
}

fn refuse(status: &Status) -> Response {
    let mut response = status.clone().into_http();
    response.extensions_mut().insert(RestStatus(problem(status).status()));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_and_nonsense_is_ignored() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            timeout(&headers)
        };
        assert_eq!(read("100m"), Some(Duration::from_millis(100)));
        assert_eq!(read("2S"), Some(Duration::from_secs(2)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for nonsense in ["", "S", "1", "1s", "-1S", "123456789S", "1.5S", "é"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }
}
