//! Bodies on their way through: a request's is watched, a response's holds on to what it needs.

use std::{
    error::Error,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, Bytes};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep, timeout};

use crate::{
    door::Flight,
    failure::Failure,
    instance::{Connection, Lease},
};

/// The most that is read and thrown away of a body that was refused.
const LINGER_BYTES: usize = 1024 * 1024;
/// The longest that it is read.
const LINGER: Duration = Duration::from_secs(2);

/// How a request's body is doing, as seen by whoever waits for the response.
pub(crate) struct Upload(Arc<AtomicU8>);

const PASSING: u8 = 0;
const AWAITED: u8 = 1;
const TOO_LARGE: u8 = 2;
const STALLED: u8 = 3;
const UNREADABLE: u8 = 4;

impl Upload {
    /// What the client did wrong, if it did.
    pub(crate) fn fault(&self) -> Option<Failure> {
        match self.0.load(Relaxed) {
            TOO_LARGE => Some(Failure::BodyTooLarge),
            STALLED => Some(Failure::BodyTimeout),
            UNREADABLE => Some(Failure::BodyUnreadable),
            _ => None,
        }
    }

    /// Whether it is the client that is being waited for.
    pub(crate) fn is_awaited(&self) -> bool {
        self.0.load(Relaxed) == AWAITED
    }
}

/// A request's body that may be only so large, and pause only so long.
struct Watched {
    inner: Body,
    left: u64,
    patience: Duration,
    /// Set only while the client is being waited for.
    alarm: Option<Pin<Box<Sleep>>>,
    state: Arc<AtomicU8>,
}

/// Watches a request's body.
pub(crate) fn watch(inner: Body, most: u64, patience: Duration) -> (Body, Upload) {
    let state = Arc::new(AtomicU8::new(PASSING));
    let watched = Watched { inner, left: most, patience, alarm: None, state: state.clone() };
    (Body::new(watched), Upload(state))
}

/// Reads on for a moment and throws it away, so that the client finishes sending and then sees the
/// answer, where closing at once would reset the connection under its hands.
pub(crate) fn linger(body: Body) {
    tokio::spawn(timeout(LINGER, async move {
        let mut body = pin!(body);
        let mut left = LINGER_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            let Some(rest) = left.checked_sub(length) else { return };
            left = rest;
        }
    }));
}

impl Watched {
    fn fail(&mut self, state: u8) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        self.state.store(state, Relaxed);
        Poll::Ready(Some(Err(BodyFault)))
    }
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                let Some(left) = this.left.checked_sub(length) else {
                    linger(std::mem::take(&mut this.inner));
                    return this.fail(TOO_LARGE);
                };
                this.left = left;
                this.alarm = None;
                this.state.store(PASSING, Relaxed);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => this.fail(UNREADABLE),
            Poll::Ready(None) => {
                this.state.store(PASSING, Relaxed);
                Poll::Ready(None)
            }
            Poll::Pending => {
                this.state.store(AWAITED, Relaxed);
                let patience = this.patience;
                let alarm = this.alarm.get_or_insert_with(|| Box::pin(sleep(patience)));
                ready!(alarm.as_mut().poll(context));
                this.fail(STALLED)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The request's body can't be passed on; why stands in its [`Upload`].
#[derive(Debug, thiserror::Error)]
#[error("the request's body can't be passed on")]
pub(crate) struct BodyFault;

/// What is let go when a response's body has been passed on: the request's place among those in
/// flight, and the connection it came on.
pub(crate) struct Hold {
    pub(crate) flight: Flight,
    pub(crate) from: Option<(Connection, Lease)>,
}

impl Hold {
    /// The body was read to its end, so the connection can be used again.
    fn finish(self) {
        if let Some((connection, lease)) = self.from {
            lease.instance.keep(connection);
        }
        drop(self.flight);
    }
}

struct Held<B> {
    inner: B,
    hold: Option<Hold>,
}

/// A response's body that holds on to what it needs until it has been passed on.
pub(crate) fn hold<B>(inner: B, hold: Hold) -> Body
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    if inner.is_end_stream() {
        hold.finish();
        return Body::new(inner);
    }
    Body::new(Held { inner, hold: Some(hold) })
}

impl<B: hyper::body::Body<Data = Bytes> + Unpin> hyper::body::Body for Held<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        match &frame {
            // The connection is of no more use.
            Some(Err(_)) => drop(self.hold.take()),
            Some(Ok(_)) if !self.inner.is_end_stream() => {}
            _ => {
                if let Some(hold) = self.hold.take() {
                    hold.finish();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
