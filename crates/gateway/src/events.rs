//! A stream of server-sent events on its way to the client.
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html>

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, header::CONTENT_TYPE},
};
use futures_util::stream::try_unfold;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// Whether these are the headers of a stream of events.
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// A body that ends once `stopping` has, after a whole event. Then the client connects again and says
/// which event it got last. `guard` is dropped with the body.
pub(crate) fn until<G: Send + 'static>(
    stopping: impl Future<Output = ()> + Send + 'static,
    events: Incoming,
    guard: G,
) -> Body {
    let state = (events, Box::pin(stopping), EventPosition::default(), false, guard);
    Body::from_stream(try_unfold(state, async |state| {
        let (mut events, mut stopping, mut position, mut stopped, guard) = state;
        while !(stopped && position.is_at_end()) {
            let frame = tokio::select! {
                () = stopping.as_mut(), if !stopped => {
                    stopped = true;
                    continue;
                }
                frame = events.frame() => frame,
            };
            let Some(frame) = frame.transpose()? else { break };
            let Ok(mut bytes) = frame.into_data() else { continue };
            if stopped {
                bytes.truncate(position.advance_to_end(&bytes));
            } else {
                position.advance(&bytes);
            }
            return Ok(Some((bytes, (events, stopping, position, stopped, guard))));
        }
        Ok::<Option<(Bytes, _)>, hyper::Error>(None)
    }))
}

/// A position in a stream of events: how many line ends were seen last. An empty line ends an event;
/// the services end their lines with a line feed alone.
struct EventPosition {
    line_ends: usize,
}

impl Default for EventPosition {
    /// The beginning, before the first event.
    fn default() -> Self {
        Self { line_ends: 2 }
    }
}

impl EventPosition {
    /// Whether no event is under way.
    fn is_at_end(&self) -> bool {
        self.line_ends >= 2
    }

    fn advance(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.line_ends = if byte == b'\n' { self.line_ends + 1 } else { 0 };
        }
    }

    /// Goes on to the end of the event, or of these bytes if that comes first; by how many bytes.
    fn advance_to_end(&mut self, bytes: &[u8]) -> usize {
        for (count, byte) in bytes.iter().enumerate() {
            if self.is_at_end() {
                return count;
            }
            self.advance(std::slice::from_ref(byte));
        }
        bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ends_with_an_empty_line() {
        let mut position = EventPosition::default();
        assert!(position.is_at_end());
        for (bytes, at_end) in [
            ("retry: 2000\n", false),
            ("\n", true),
            ("id: 1\ndata: {}\n", false),
            ("\nid: 2", false),
            ("\ndata: {}\n\n", true),
            ("", true),
            (":\n\n", true),
        ] {
            position.advance(bytes.as_bytes());
            assert_eq!(position.is_at_end(), at_end, "after {bytes:?}");
        }
    }

    #[test]
    fn what_comes_after_the_event_is_left_out() {
        let mut position = EventPosition::default();
        assert_eq!(position.advance_to_end(b"id: 1\n\n"), 0);
        position.advance(b"id: 1\nda");
        assert_eq!(position.advance_to_end(b"ta: {}\n"), 7);
        assert_eq!(position.advance_to_end(b"\nid: 2\n\n"), 1);
        assert!(position.is_at_end());
    }
}
