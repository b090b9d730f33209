//! Requests that hyper refuses by itself: a head that can't be parsed, or is too large. Its answer
//! has no body and no request id; here it becomes a problem.
//!
//! hyper has no hook for this, so the stream below it looks at what is written. It takes for a
//! refusal what ends with the head of an empty 4xx answer without a request id: every answer of
//! the [edge](crate::edge) has one, and JSON can't contain such a head.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::http::StatusCode;
use gozon_contract::RandomSource;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{PROBLEM_JSON, Problem, REQUEST_ID, edge::new_request_id};

const HEAD_END: &[u8] = b"\r\n\r\n";
const REFUSAL_START: &[u8] = b"HTTP/1.1 4";

/// A server's stream on which refusals are problems.
pub(crate) struct ExplainRefusals<S> {
    inner: S,
    random: RandomSource,
    /// What is still to be written in place of a refusal; it is the last of the connection.
    explanation: Vec<u8>,
}

impl<S: AsyncWrite + Unpin> ExplainRefusals<S> {
    pub(crate) fn new(inner: S, random: RandomSource) -> Self {
        Self { inner, random, explanation: Vec::new() }
    }

    fn poll_explanation(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.explanation.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(context, &self.explanation))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.explanation.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

/// Where the refusal begins that `written` ends with, and its status.
fn refusal(written: &[u8]) -> Option<(usize, StatusCode)> {
    if !written.ends_with(HEAD_END) {
        return None;
    }
    let at = written.windows(REFUSAL_START.len()).rposition(|part| part == REFUSAL_START)?;
    let head = std::str::from_utf8(&written[at..]).ok()?;
    let is_one_head = head.find("\r\n\r\n") == Some(head.len() - HEAD_END.len());
    if !is_one_head || !head.contains("\r\ncontent-length: 0\r\n") || head.contains(REQUEST_ID) {
        return None;
    }
    Some((at, head.get(9..12)?.parse().ok()?))
}

fn explain(status: StatusCode, random: &RandomSource) -> Vec<u8> {
    let (code, detail) = match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            ("headers_too_large", "the request has too many headers, or its head is too large")
        }
        StatusCode::URI_TOO_LONG => ("uri_too_long", "the request's URI is too long"),
        _ => ("invalid_request", "this is not an HTTP request that can be read"),
    };
    let request_id = new_request_id(random);
    tracing::debug!(request_id, status = status.as_u16(), "refused");
    let mut problem = Problem::new(status, code, detail);
    problem.request_id.clone_from(&request_id);
    let body = serde_json::to_string(&problem).unwrap_or_default();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {PROBLEM_JSON}\r\n{REQUEST_ID}: {request_id}\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ExplainRefusals<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_explanation(context))?;
        match refusal(data) {
            None => Pin::new(&mut self.inner).poll_write(context, data),
            Some((0, status)) => {
                self.explanation = explain(status, &self.random);
                Poll::Ready(Ok(data.len()))
            }
            // First the answers to earlier requests.
            Some((at, _)) => Pin::new(&mut self.inner).poll_write(context, &data[..at]),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A refusal has no body, so it is a single slice.
        if let [one] = data {
            return self.poll_write(context, one);
        }
        ready!(self.poll_explanation(context))?;
        Pin::new(&mut self.inner).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_explanation(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_explanation(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ExplainRefusals<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_what_is_written_is_a_refusal() {
        let refused = "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n";
        let ours = "HTTP/1.1 404 Not Found\r\nx-request-id: a\r\ncontent-length: 0\r\n\r\n";
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        assert_eq!(refusal(refused.as_bytes()), Some((0, status)));
        let both = format!("{ours}{refused}");
        assert_eq!(refusal(both.as_bytes()), Some((ours.len(), status)));
        assert_eq!(refusal(ours.as_bytes()), None);
        assert_eq!(refusal(format!("{refused}{{}}").as_bytes()), None);
        assert_eq!(refusal(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), None);
    }
}
