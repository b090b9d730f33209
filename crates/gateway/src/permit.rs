//! The bound on requests in flight, and what a response's body keeps until it has been sent.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};

use crate::metrics::InFlight;

/// A response of a known size up to this many bytes keeps nothing while it is sent.
const SMALL_RESPONSE: u64 = 64 * 1024;

/// Permits for a bounded number of requests.
pub(crate) struct Permits {
    limit: usize,
    taken: Arc<Taken>,
}

#[derive(Default)]
struct Taken {
    count: AtomicUsize,
    gauge: InFlight,
}

/// One request in flight, until it is dropped.
pub(crate) struct Permit(Arc<Taken>);

impl Permits {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, taken: Arc::default() }
    }

    /// A permit, unless all are taken.
    pub(crate) fn acquire(&self) -> Option<Permit> {
        let before = self.taken.count.fetch_add(1, Relaxed);
        self.taken.gauge.get().increment(1.0);
        let permit = Permit(self.taken.clone());
        (before < self.limit).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Relaxed);
        self.0.gauge.get().decrement(1.0);
    }
}

/// A body that keeps `guard` until it has been sent. A small one lets it go at once: what is left
/// to do for it is a single write.
pub(crate) fn keep_until_sent<B, G>(inner: B, guard: G) -> Body
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<axum::BoxError>,
    G: Send + Unpin + 'static,
{
    if inner.size_hint().upper().is_some_and(|size| size <= SMALL_RESPONSE) {
        return Body::new(inner);
    }
    Body::new(Guarded { inner, _guard: guard })
}

struct Guarded<B, G> {
    inner: B,
    _guard: G,
}

impl<B: HttpBody<Data = Bytes> + Unpin, G: Unpin> HttpBody for Guarded<B, G> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
