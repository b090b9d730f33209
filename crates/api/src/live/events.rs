//! Server-sent events, for clients and proxies without WebSocket.
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html>

use std::{convert::Infallible, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use gozon_contract::Timestamp;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::session::{Client, End, Session};

/// The media type of the stream.
const MEDIA_TYPE: &str = "text/event-stream";
/// Number of writes that may wait for the client's connection.
const QUEUED_WRITES: usize = 1;
/// How much is gathered before it is written, unless there is no more to gather.
const WRITE_BUFFER: usize = 8 * 1024;
/// Mean pause before a client connects again; each is told its own.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Whether a client asks for events.
pub(super) fn wanted(headers: &HeaderMap) -> bool {
    let mut accepted =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.any(|types| {
        types.split(',').any(|item| item.split(';').next().map(str::trim) == Some(MEDIA_TYPE))
    })
}

/// As of when a client is up to date that sends the id of the last event that it got.
pub(super) fn resume_from(headers: &HeaderMap) -> Option<Timestamp> {
    let last = headers.get("last-event-id")?.to_str().ok()?.parse().ok()?;
    Some(Timestamp::from_micros(last))
}

/// The response whose body the session goes on to write.
pub(super) fn respond(session: Session) -> Response {
    let (sender, receiver) = mpsc::channel(QUEUED_WRITES);
    let retry = session.live.random.jitter(RETRY_DELAY).as_millis();
    let mut client = EventStream { writes: sender, buffer: format!("retry: {retry}\n\n") };
    gozon_seam::spawn(async move {
        let _counted = session.live.count_client();
        session.run(&mut client).await
    });
    let body = stream::unfold(receiver, |mut receiver: mpsc::Receiver<Bytes>| async move {
        Some((Ok::<_, Infallible>(receiver.recv().await?), receiver))
    });
    let headers = [
        (header::CONTENT_TYPE, MEDIA_TYPE),
        (header::CACHE_CONTROL, "no-store"),
        // Proxies that gather responses, nginx for one, let this one through.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(body)).into_response()
}

struct EventStream {
    writes: mpsc::Sender<Bytes>,
    buffer: String,
}

impl EventStream {
    /// An event's id is the instant from which a client that has it may have missed anything.
    fn write(&mut self, text: &str, as_of: Timestamp) {
        use std::fmt::Write as _;
        // Writing to a string can't fail.
        let _ = write!(self.buffer, "id: {}\ndata: {text}\n\n", as_of.micros());
    }
}

impl Client for EventStream {
    const ANSWERS_PINGS: bool = false;

    async fn snapshot(&mut self, text: &str, as_of: Timestamp) -> Result<(), End> {
        self.write(text, as_of);
        self.flush().await
    }

    async fn feed(&mut self, text: &Utf8Bytes, as_of: Timestamp) -> Result<(), End> {
        self.write(text, as_of);
        if self.buffer.len() > WRITE_BUFFER { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let room = self.writes.reserve().await.map_err(|_| End::Gone)?;
        room.send(std::mem::take(&mut self.buffer).into());
        Ok(())
    }

    /// A comment: connections that are silent for long are cut by some proxies.
    async fn ping(&mut self) -> Result<(), End> {
        self.buffer.push_str(":\n\n");
        self.flush().await
    }

    async fn receive(&mut self) -> Result<(), End> {
        self.writes.closed().await;
        Err(End::Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_sent_to_those_who_accept_them() {
        let accepting = |types: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, types.parse().unwrap());
            wanted(&headers)
        };
        assert!(accepting("text/event-stream"));
        assert!(accepting("text/html, text/event-stream;q=0.9"));
        assert!(!accepting("*/*") && !accepting("text/event-streams"));
    }

    #[test]
    fn a_client_resumes_from_the_instant_of_its_last_event() {
        let resume = |id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("last-event-id", id.parse().unwrap());
            resume_from(&headers)
        };
        assert_eq!(resume("1763683200000000"), Some(Timestamp::from_micros(1_763_683_200_000_000)));
        assert_eq!(resume("x"), None);
        assert_eq!(resume_from(&HeaderMap::new()), None);
    }
}
