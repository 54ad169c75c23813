//! The activity of a connection, its idle and head timeouts, and its eviction.
//!
//! Why: an idle connection may stay as long as proxies keep theirs, the head of a request must arrive within seconds, and
//! where slots are short idle connections are evicted. All three ask the same question: is a request under way?
//!
//! ```text
//!   New ---first byte---> Head ---head parsed---> Busy ---response written and flushed---> Idle
//!    |                     ^ |                                                             |
//!    |                     | +-- or HeadComplete, where the acceptor has peeked all of it  |
//!    |<-TLS handshake done-|                                                               |
//!    |                     +-----------------------first byte------------------------------+
//!    +--evict--> Evicted (from New, Head, HeadComplete, Idle; never from Busy)
//! ```
//!
//! Invariants: a connection is evicted only while no request is under way, and no request that arrives after the eviction is
//! carried out. So no request that was carried out is left without a response.
//!
//! See also: the rate of request bodies ([`crate::http::request::body`]) and of responses ([`super::write_timeout`]).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};

/// The age at which an incomplete head may be evicted. Clients send a head in one piece.
const SLOW_HEAD: Duration = Duration::from_secs(1);
/// The shortest idle time before an eviction: just after the connect, and just after a response, the client's next request
/// may be on its way.
const MIN_IDLE: Duration = Duration::from_millis(250);

/// The activity of one connection, shared by its stream, its service and the slots.
#[derive(Debug)]
pub(crate) struct Activity {
    phase: Mutex<Phase>,
    /// Whether response bytes are still in hyper's buffer: a short body counts as written before it is flushed.
    unflushed: AtomicBool,
    eviction: Notify,
}

/// What a connection does; the instant is when that began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing has arrived since the connect.
    New(Instant),
    /// Nothing has arrived since the last response.
    Idle(Instant),
    /// A part of a request's head has arrived.
    Head(Instant),
    /// The acceptor has seen the whole head, which hyper has not parsed yet.
    HeadComplete(Instant),
    /// A request is being answered.
    Busy,
    /// The connection has to close; true where a request of it may be unanswered.
    Evicted(bool),
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            phase: Mutex::new(Phase::New(Instant::now())),
            unflushed: AtomicBool::new(false),
            eviction: Notify::new(),
        }
    }
}

impl Activity {
    /// Returns since when the connection can be evicted; None where it cannot. It can where it is idle, and where its head
    /// has been incomplete for [`SLOW_HEAD`]. With `eager`, also at once where no complete head has arrived.
    pub(crate) fn evictable_since(&self, eager: bool) -> Option<Instant> {
        self.evictable(*self.phase(), eager)
    }

    fn evictable(&self, phase: Phase, eager: bool) -> Option<Instant> {
        let (since, min_age) = match phase {
            Phase::New(since) => (since, if eager { Duration::ZERO } else { MIN_IDLE }),
            // Until the response is flushed its client cannot have it, and closing now would truncate it.
            Phase::Idle(since) if !self.unflushed.load(Ordering::Relaxed) => (since, MIN_IDLE),
            Phase::Head(since) => (since, if eager { Duration::ZERO } else { SLOW_HEAD }),
            // hyper parses a complete head as soon as its task runs. If it has not a second later, there was no valid head.
            Phase::HeadComplete(since) => (since, SLOW_HEAD),
            _ => return None,
        };
        (since.elapsed() >= min_age).then_some(since)
    }

    /// Evicts the connection; false where it cannot be evicted.
    pub(crate) fn evict(&self, eager: bool) -> bool {
        // Check and change under one lock: `begin_request` on the connection's task either comes first, and the connection
        // stays, or comes after, and its request is refused.
        let mut phase = self.phase();
        let evictable = self.evictable(*phase, eager).is_some();
        if evictable {
            // An idle client waits for nothing and gets a plain close. A new one, or one in its head, may be about to wait.
            *phase = Phase::Evicted(!matches!(*phase, Phase::Idle(_)));
            self.eviction.notify_one();
        }
        evictable
    }

    /// Waits for the eviction; for one caller.
    pub(crate) async fn evicted(&self) {
        self.eviction.notified().await;
    }

    /// Whether the connection is evicted.
    pub(crate) fn is_evicted(&self) -> bool {
        matches!(*self.phase(), Phase::Evicted(_))
    }

    /// Whether the connection is evicted and its client may wait for a response.
    pub(crate) fn is_evicted_unanswered(&self) -> bool {
        *self.phase() == Phase::Evicted(true)
    }

    /// Marks that a request's head has been parsed. False where the connection is evicted: then the caller must refuse the
    /// request and answer it.
    #[must_use]
    pub(crate) fn begin_request(&self) -> bool {
        let mut phase = self.phase();
        let accepted = !matches!(*phase, Phase::Evicted(_));
        // The caller answers the refused request, so the close need not send another response: hence `false`.
        *phase = if accepted { Phase::Busy } else { Phase::Evicted(false) };
        accepted
    }

    /// Marks that the whole head of the first request has arrived.
    pub(crate) fn head_complete(&self) {
        *self.phase() = Phase::HeadComplete(Instant::now());
    }

    /// Marks that the response has been written.
    pub(crate) fn response_done(&self) {
        let mut phase = self.phase();
        if !matches!(*phase, Phase::Evicted(_)) {
            *phase = Phase::Idle(Instant::now());
        }
    }

    fn flushed(&self) {
        if self.unflushed.swap(false, Ordering::Relaxed) {
            let mut phase = self.phase();
            // The client has the response only now, so its idle time starts now and not when the body was handed to hyper.
            if let Phase::Idle(since) = &mut *phase {
                *since = Instant::now();
            }
        }
    }

    /// Marks that bytes of a request have arrived.
    pub(crate) fn bytes_received(&self) {
        let mut phase = self.phase();
        if let Phase::New(_) | Phase::Idle(_) = *phase {
            *phase = Phase::Head(Instant::now());
        }
    }

    /// Marks that the TLS handshake is complete: from here on the connection is one on which nothing has arrived.
    pub(crate) fn handshake_done(&self) {
        let mut phase = self.phase();
        if !matches!(*phase, Phase::Evicted(_)) {
            *phase = Phase::New(Instant::now());
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The timeouts of a connection outside of requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// Before a request.
    pub(crate) idle: Duration,
    /// From the first to the last byte of a request's head.
    pub(crate) head: Duration,
}

/// A stream that reads end-of-file after the idle timeout or an eviction, and an error after the head timeout.
pub(crate) struct ReadTimeout<S> {
    stream: S,
    activity: Arc<Activity>,
    timeouts: Timeouts,
    /// Never later than the deadline, and mostly earlier: it is checked when it fires, which is cheaper than a reset for each
    /// request.
    timer: Pin<Box<Sleep>>,
}

impl<S> ReadTimeout<S> {
    /// Wraps `stream`, whose activity is `activity`.
    pub(crate) fn new(stream: S, activity: Arc<Activity>, timeouts: Timeouts) -> Self {
        Self { stream, activity, timeouts, timer: Box::pin(sleep_until(Instant::now() + timeouts.idle)) }
    }

    /// The stream itself.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }

    /// The deadline of the present phase, and whether passing it is an error.
    fn deadline(&self) -> Option<(Instant, bool)> {
        match *self.activity.phase() {
            // The idle time starts with the flush, but a flush does not poll this read again. So a timer must be armed here,
            // or a connection whose last response is flushed later would never time out.
            Phase::Idle(_) if self.activity.unflushed.load(Ordering::Relaxed) => {
                Some((Instant::now() + self.timeouts.idle, false))
            }
            Phase::New(since) | Phase::Idle(since) => Some((since + self.timeouts.idle, false)),
            Phase::Head(since) | Phase::HeadComplete(since) => Some((since + self.timeouts.head, true)),
            Phase::Busy => None,
            Phase::Evicted(_) => Some((Instant::now(), false)),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // End-of-file makes hyper close the connection as if the client had; what arrives from here on is never parsed.
        if self.activity.is_evicted() {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            if buffer.filled().len() > before {
                self.activity.bytes_received();
            }
            return Poll::Ready(read);
        }
        // Nothing to read: wait for the deadline. Example with an idle timeout of 76 s: armed at 0 s for 76 s; a request is
        // answered at 70 s, so the deadline is 146 s. The timer fires at 76 s, finds that, and is armed once more.
        loop {
            let Some((deadline, fails)) = self.deadline() else { return Poll::Pending };
            if deadline < self.timer.deadline() {
                self.timer.as_mut().reset(deadline);
            }
            ready!(self.timer.as_mut().poll(context));
            if Instant::now() >= deadline {
                let late = || io::Error::new(io::ErrorKind::TimedOut, "timeout while reading a request's head");
                return Poll::Ready(if fails { Err(late()) } else { Ok(()) });
            }
            self.timer.as_mut().reset(deadline);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.activity.unflushed.store(true, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.activity.unflushed.store(true, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        // hyper flushes when its buffer is empty.
        if flushed.is_ready() {
            self.activity.flushed();
        }
        flushed
    }

    /// Flushes only. The connection's end shuts the stream down ([`super::connection`]), and may have to write before it does:
    /// after TLS has sent its close_notify, nothing more can be written.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

/// A response body that marks its request as done when it is dropped: after its last frame, or when the connection breaks.
pub(crate) struct TrackedBody<B> {
    body: B,
    activity: Arc<Activity>,
}

impl<B> TrackedBody<B> {
    /// Wraps the body of a response on the connection with this activity.
    pub(crate) fn new(body: B, activity: Arc<Activity>) -> Self {
        Self { body, activity }
    }
}

impl<B> Drop for TrackedBody<B> {
    fn drop(&mut self) {
        self.activity.response_done();
    }
}

impl<B: hyper::body::Body + Unpin> hyper::body::Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const TIMEOUTS: Timeouts = Timeouts { idle: Duration::from_secs(75), head: Duration::from_secs(10) };

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_has_the_idle_timeout_and_a_head_the_head_timeout() {
        let (server, mut client) = tokio::io::duplex(64);
        let activity = Arc::<Activity>::default();
        let mut server = ReadTimeout::new(server, Arc::clone(&activity), TIMEOUTS);
        let began = Instant::now();
        let mut buffer = [0; 16];
        for _ in 0..3 {
            let asks = async {
                tokio::time::sleep(Duration::from_secs(70)).await;
                client.write_all(b"head").await.unwrap();
            };
            let (read, ()) = tokio::join!(server.read(&mut buffer), asks);
            assert_eq!(read.unwrap(), 4);
            assert_eq!(activity.evictable_since(false), None);
            assert!(activity.begin_request());
            tokio::time::sleep(Duration::from_secs(200)).await;
            activity.response_done();
        }
        assert_eq!(began.elapsed().as_secs(), 810);
        assert_eq!(server.read(&mut buffer).await.unwrap(), 0, "end of file");
        assert_eq!(began.elapsed().as_secs(), 885);

        activity.response_done();
        client.write_all(b"he").await.unwrap();
        assert_eq!(server.read(&mut buffer).await.unwrap(), 2);
        assert_eq!(server.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 895);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_with_an_unflushed_response_is_not_idle() {
        let (server, mut client) = tokio::io::duplex(4);
        let activity = Arc::<Activity>::default();
        let mut server = ReadTimeout::new(server, Arc::clone(&activity), TIMEOUTS);
        assert!(activity.begin_request());
        server.write_all(b"answ").await.unwrap();
        activity.response_done();
        tokio::time::advance(MIN_IDLE).await;
        assert!(activity.evictable_since(true).is_none() && !activity.evict(true));
        client.read_exact(&mut [0; 4]).await.unwrap();
        server.flush().await.unwrap();
        tokio::time::advance(MIN_IDLE).await;
        assert!(activity.evict(false) && !activity.is_evicted_unanswered());
    }

    #[tokio::test(start_paused = true)]
    async fn an_eager_eviction_takes_connections_without_a_complete_head() {
        let activity = Activity::default();
        assert!(!activity.evict(false) && activity.evictable_since(true).is_some());
        activity.bytes_received();
        assert!(!activity.evict(false) && activity.evictable_since(true).is_some());
        activity.head_complete();
        assert!(activity.evictable_since(true).is_none());
        tokio::time::advance(SLOW_HEAD).await;
        assert!(activity.evictable_since(false).is_some(), "no request came of it");
        assert!(activity.begin_request() && !activity.evict(true));
        activity.response_done();
        assert!(!activity.evict(true), "its next request may be on its way");
        activity.bytes_received();
        assert!(activity.evict(true) && activity.is_evicted_unanswered());
        assert!(!activity.begin_request(), "a request that arrives now is refused");
        assert!(activity.is_evicted() && !activity.is_evicted_unanswered());
    }

    #[tokio::test]
    async fn bytes_after_an_eviction_are_not_read() {
        let (server, mut client) = tokio::io::duplex(64);
        let activity = Arc::<Activity>::default();
        let mut server = ReadTimeout::new(server, Arc::clone(&activity), TIMEOUTS);
        assert!(activity.evict(true) && !activity.evict(true));
        client.write_all(b"head").await.unwrap();
        assert_eq!(server.read(&mut [0; 16]).await.unwrap(), 0);
        activity.evicted().await;
    }
}
