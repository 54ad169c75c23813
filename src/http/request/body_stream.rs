//! The body of a request, between hyper and the routes.
//!
//! Why: hyper closes a connection whose request was answered before its body was read, and says so to nobody; the
//! client's next request on it is lost. So what a route leaves is read off, or the answer announces the close.
//!
//! Laws: at most [`MOST_BYTES`] are read off, for at most [`LONGEST`]. A client that waits for `100 Continue` is not told
//! to send a body that nobody wants.
//!
//! Not here: reading a body that is wanted ([`super::body`]).

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::timeout;

/// The most bytes that are read off.
const MOST_BYTES: u64 = 64 << 10;
/// How long that may take.
const LONGEST: Duration = Duration::from_millis(200);

/// A body of which the server keeps hold; None where there is nothing to read.
#[derive(Clone)]
pub(crate) struct RequestBody(Option<Arc<Mutex<Incoming>>>);

impl RequestBody {
    /// Keeps hold of `body`.
    pub(crate) fn new(body: Incoming) -> Self {
        Self((!body.is_end_stream()).then(|| Arc::new(Mutex::new(body))))
    }

    /// Reads off what is left; whether all of it was there and the connection can go on. `waits` is whether the client
    /// sends the body only once it is told to.
    pub(crate) async fn read_off(&mut self, waits: bool) -> bool {
        if self.is_end_stream() {
            return true;
        }
        if waits || self.size_hint().lower() > MOST_BYTES {
            return false;
        }
        let all = async {
            let mut bytes = 0;
            while let Some(frame) = poll_fn(|context| Pin::new(&mut *self).poll_frame(context)).await {
                let Ok(frame) = frame else { return false };
                bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if bytes > MOST_BYTES {
                    return false;
                }
            }
            true
        };
        timeout(LONGEST, all).await.unwrap_or(false)
    }

    fn with<T>(&self, none: T, look: impl FnOnce(&mut Incoming) -> T) -> T {
        match &self.0 {
            Some(body) => look(&mut body.lock().unwrap_or_else(PoisonError::into_inner)),
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
