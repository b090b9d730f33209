//! Request bodies, read to their end before anything is forwarded: they are small, and a body in
//! memory can be sent again.

use std::{pin::pin, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{
        HeaderMap,
        header::{CONTENT_LENGTH, EXPECT},
    },
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::ProxyError;

/// The most bytes that are read and thrown away of a body that was refused.
const DISCARD_BYTES: usize = 1024 * 1024;
/// The longest that a refused body is read.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads a body of at most `limit` bytes to its end.
pub(crate) async fn read(
    mut body: Body,
    headers: &HeaderMap,
    limit: usize,
    deadline: Instant,
) -> Result<Bytes, ProxyError> {
    let declared = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if declared.and_then(|length| length.parse().ok()).is_some_and(|n: usize| n > limit) {
        // A client that asks before it sends will not send.
        if !headers.contains_key(EXPECT) {
            discard(body);
        }
        return Err(ProxyError::BodyTooLarge);
    }
    match timeout_at(deadline, Limited::new(&mut body, limit).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            discard(body);
            Err(ProxyError::BodyTooLarge)
        }
        Ok(Err(_)) => Err(ProxyError::BodyUnreadable),
        Err(_) => Err(ProxyError::BodyTimeout),
    }
}

/// Reads on for a moment and throws it away. The client finishes sending and then sees the answer;
/// closing at once would reset its connection.
fn discard(body: Body) {
    gozon_seam::spawn(timeout(DISCARD_TIMEOUT, async move {
        let mut body = pin!(body);
        let mut left = DISCARD_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            let Some(rest) = left.checked_sub(length) else { return };
            left = rest;
        }
    }));
}
