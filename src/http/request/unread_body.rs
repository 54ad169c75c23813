//! Unread request bodies: what a route has left is read and discarded, or the connection is closed.
//!
//! Why: hyper closes a connection whose request was answered before its body was read, without a `Connection: close`. The
//! client's next request on it would be lost. So the rest of a body is discarded, or the response announces the close.
//!
//! ```text
//!   POST /nowhere, 40 KiB body          -> 404, the 40 KiB are read, the connection stays
//!   POST /nowhere, 10 MiB body          -> 404, Connection: close
//!   POST /nowhere, Expect: 100-continue -> 404, Connection: close; no 100 Continue, so no body is sent
//! ```
//!
//! Invariants: at most [`MAX_DISCARDED_BYTES`] are discarded, for at most [`DISCARD_TIMEOUT`]. A client that waits for
//! `100 Continue` is never asked for a body that is not read.
//!
//! See also: bodies that a route reads ([`super::body`]).

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::timeout;

/// The most bytes that are discarded.
const MAX_DISCARDED_BYTES: u64 = 64 << 10;
/// How long that may take.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(200);

/// A body with two owners, the route and the server; None where there is no body.
#[derive(Clone, Default)]
pub(crate) struct RequestBody(Option<Arc<Mutex<Incoming>>>);

impl RequestBody {
    /// Wraps `body`.
    pub(crate) fn new(body: Incoming) -> Self {
        Self((!body.is_end_stream()).then(|| Arc::new(Mutex::new(body))))
    }

    /// Reads and discards the rest. True where that was all of it, so that the connection can go on. `expects_continue` is
    /// whether the client sends the body only after a `100 Continue`.
    pub(crate) async fn discard(&mut self, expects_continue: bool) -> bool {
        if self.is_end_stream() {
            return true;
        }
        // With `Expect: 100-continue` the first poll would make hyper send the 100 and the client its body. A body with a
        // length over the bound cannot end within it; a chunked one has a lower bound of 0 and is tried.
        if expects_continue || Body::size_hint(self).lower() > MAX_DISCARDED_BYTES {
            return false;
        }
        let all = async {
            let mut bytes = 0;
            while let Some(frame) = poll_fn(|context| Pin::new(&mut *self).poll_frame(context)).await {
                let Ok(frame) = frame else { return false };
                bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if bytes > MAX_DISCARDED_BYTES {
                    return false;
                }
            }
            true
        };
        timeout(DISCARD_TIMEOUT, all).await.unwrap_or(false)
    }

    fn with<T>(&self, none: T, apply: impl FnOnce(&mut Incoming) -> T) -> T {
        match &self.0 {
            // Never contended: the server polls the body only after the route has returned.
            Some(body) => apply(&mut body.lock().unwrap_or_else(PoisonError::into_inner)),
            None => none,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.with(Poll::Ready(None), |body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.with(true, |body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(SizeHint::with_exact(0), |body| body.size_hint())
    }
}

/// Its chunks, without trailers.
impl Stream for RequestBody {
    type Item = Result<Bytes, hyper::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(self.as_mut().poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => {
                    if let Ok(chunk) = frame.into_data() {
                        return Poll::Ready(Some(Ok(chunk)));
                    }
                }
            }
        }
    }
}
