//! What a connection does, and for how long it may do nothing.
//!
//! Why: an idle connection may stay for as long as proxies keep theirs, a request's head must come within seconds, and
//! where places are few the idle ones go first. All three ask one thing: is something under way?
//!
//! Laws: whoever tells a connection to leave does so while it is idle or has not asked yet, and nothing that it asks after
//! that is carried out, so nothing that was taken is left without an answer.
//!
//! Not here: how fast a body comes ([`crate::http::request::body`]) and an answer goes ([`super::write_timeout`]).

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

/// After how long a head that has begun and not ended gives way. Clients send theirs at once.
const SLOW_HEAD: Duration = Duration::from_secs(1);
/// How long a connection must have been idle to give way: the request of one that was just made, or just answered, may be
/// on its way.
const LEAST_IDLE: Duration = Duration::from_millis(250);

/// What a connection does.
#[derive(Debug)]
pub(crate) struct Activity {
    now: Mutex<Now>,
    /// Whether some of an answer is still to be sent; a short one is written before that.
    unsent: AtomicBool,
    leave: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Now {
    /// Nothing has come at all since it was made.
    New(Instant),
    /// Nothing has come since the last answer.
    Idle(Instant),
    /// Some of a request's head has come, the first of it then.
    Head(Instant),
    /// All of a request's head has come, and has not been read yet.
    Asked(Instant),
    /// A request is answered.
    Busy,
    /// It was told to leave; whether it had begun to ask, or was to be expected to.
    Leaving(bool),
}

impl Default for Activity {
    fn default() -> Self {
        Self { now: Mutex::new(Now::New(Instant::now())), unsent: AtomicBool::new(false), leave: Notify::new() }
    }
}

impl Activity {
    /// Since when it can be told to leave; None where it cannot. It is idle then, or its request has begun and has not gone
    /// on to its end for [`SLOW_HEAD`]: nobody has taken it yet. In a `hurry` whoever has not asked yet goes at once.
    pub(crate) fn idle_since(&self, hurry: bool) -> Option<Instant> {
        self.idle(*self.now(), hurry)
    }

    fn idle(&self, now: Now, hurry: bool) -> Option<Instant> {
        let (since, at_least) = match now {
            Now::New(since) => (since, if hurry { Duration::ZERO } else { LEAST_IDLE }),
            Now::Idle(since) if !self.unsent.load(Ordering::Relaxed) => (since, LEAST_IDLE),
            Now::Head(since) => (since, if hurry { Duration::ZERO } else { SLOW_HEAD }),
            Now::Asked(since) => (since, SLOW_HEAD),
            _ => return None,
        };
        (since.elapsed() >= at_least).then_some(since)
    }

    /// Tells it to leave; false where it is not idle.
    pub(crate) fn leave(&self, hurry: bool) -> bool {
        let mut now = self.now();
        let is_idle = self.idle(*now, hurry).is_some();
        if is_idle {
            *now = Now::Leaving(!matches!(*now, Now::Idle(_)));
            self.leave.notify_one();
        }
        is_idle
    }

    /// Returns once it was told to leave; for one caller.
    pub(crate) async fn told_to_leave(&self) {
        self.leave.notified().await;
    }

    /// Whether it was told to leave.
    pub(crate) fn is_leaving(&self) -> bool {
        matches!(*self.now(), Now::Leaving(_))
    }

    /// Whether it was told to leave and waits for an answer, as far as is known here.
    pub(crate) fn leaves_unanswered(&self) -> bool {
        *self.now() == Now::Leaving(true)
    }

    /// The head of a request has been read. False where the connection has to leave: the request must not be carried out,
    /// and whoever is told this has answered it.
    #[must_use]
    pub(crate) fn begin(&self) -> bool {
        let mut now = self.now();
        let stays = !matches!(*now, Now::Leaving(_));
        *now = if stays { Now::Busy } else { Now::Leaving(false) };
        stays
    }

    /// All of the head of the first request has come.
    pub(crate) fn asked(&self) {
        *self.now() = Now::Asked(Instant::now());
    }

    /// The answer has been written.
    pub(crate) fn done(&self) {
        let mut now = self.now();
        if !matches!(*now, Now::Leaving(_)) {
            *now = Now::Idle(Instant::now());
        }
    }

    fn sent(&self) {
        if self.unsent.swap(false, Ordering::Relaxed) {
            let mut now = self.now();
            if let Now::Idle(since) = &mut *now {
                *since = Instant::now();
            }
        }
    }

    pub(crate) fn heard(&self) {
        let mut now = self.now();
        if let Now::New(_) | Now::Idle(_) = *now {
            *now = Now::Head(Instant::now());
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a connection may do nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    /// Before a request.
    pub(crate) idle: Duration,
    /// Within the head of one.
    pub(crate) head: Duration,
}

/// A stream that ends where it is idle for too long or was told to leave, and fails where a head takes too long.
pub(crate) struct Attended<S> {
    stream: S,
    activity: Arc<Activity>,
    waits: Waits,
    /// Never later than what is waited for, and mostly earlier: setting it anew for each request would cost more.
    alarm: Pin<Box<Sleep>>,
}

impl<S> Attended<S> {
    /// Attends to `stream`, of which `activity` tells.
    pub(crate) fn new(stream: S, activity: Arc<Activity>, waits: Waits) -> Self {
        Self { stream, activity, waits, alarm: Box::pin(sleep_until(Instant::now() + waits.idle)) }
    }

    /// The stream itself.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }

    /// When what is awaited is late, and whether that is a failure.
    fn deadline(&self) -> Option<(Instant, bool)> {
        match *self.activity.now() {
            // The alarm has to be set all the same: nobody asks again once it is sent.
            Now::Idle(_) if self.activity.unsent.load(Ordering::Relaxed) => {
                Some((Instant::now() + self.waits.idle, false))
            }
            Now::New(since) | Now::Idle(since) => Some((since + self.waits.idle, false)),
            Now::Head(since) | Now::Asked(since) => Some((since + self.waits.head, true)),
            Now::Busy => None,
            Now::Leaving(_) => Some((Instant::now(), false)),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Attended<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.activity.is_leaving() {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            if buffer.filled().len() > before {
                self.activity.heard();
            }
            return Poll::Ready(read);
        }
        loop {
            let Some((deadline, fails)) = self.deadline() else { return Poll::Pending };
            if deadline < self.alarm.deadline() {
                self.alarm.as_mut().reset(deadline);
            }
            ready!(self.alarm.as_mut().poll(context));
            if Instant::now() >= deadline {
                let late = || io::Error::new(io::ErrorKind::TimedOut, "the head of a request did not come in time");
                return Poll::Ready(if fails { Err(late()) } else { Ok(()) });
            }
            self.alarm.as_mut().reset(deadline);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Attended<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.activity.unsent.store(true, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.activity.unsent.store(true, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        // hyper flushes when it has nothing more to write.
        if flushed.is_ready() {
            self.activity.sent();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A body that says so when it has been written, or is given up.
pub(crate) struct Attending<B> {
    body: B,
    activity: Arc<Activity>,
}

impl<B> Attending<B> {
    /// The body of the answer of a connection.
    pub(crate) fn new(body: B, activity: Arc<Activity>) -> Self {
        Self { body, activity }
    }
}

impl<B> Drop for Attending<B> {
    fn drop(&mut self) {
        self.activity.done();
    }
}

impl<B: hyper::body::Body + Unpin> hyper::body::Body for Attending<B> {
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

    const WAITS: Waits = Waits { idle: Duration::from_secs(75), head: Duration::from_secs(10) };

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_stays_for_long_and_a_head_comes_soon() {
        let (server, mut client) = tokio::io::duplex(64);
        let activity = Arc::<Activity>::default();
        let mut server = Attended::new(server, Arc::clone(&activity), WAITS);
        let began = Instant::now();
        let mut buffer = [0; 16];
        for _ in 0..3 {
            let asks = async {
                tokio::time::sleep(Duration::from_secs(70)).await;
                client.write_all(b"head").await.unwrap();
            };
            let (read, ()) = tokio::join!(server.read(&mut buffer), asks);
            assert_eq!(read.unwrap(), 4);
            assert_eq!(activity.idle_since(false), None);
            assert!(activity.begin());
            tokio::time::sleep(Duration::from_secs(200)).await;
            activity.done();
        }
        assert_eq!(began.elapsed().as_secs(), 810);
        assert_eq!(server.read(&mut buffer).await.unwrap(), 0, "it ends like one that the client has closed");
        assert_eq!(began.elapsed().as_secs(), 885);

        activity.done();
        client.write_all(b"he").await.unwrap();
        assert_eq!(server.read(&mut buffer).await.unwrap(), 2);
        assert_eq!(server.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 895);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_with_something_to_send_is_not_idle() {
        let (server, mut client) = tokio::io::duplex(4);
        let activity = Arc::<Activity>::default();
        let mut server = Attended::new(server, Arc::clone(&activity), WAITS);
        assert!(activity.begin());
        server.write_all(b"answ").await.unwrap();
        activity.done();
        tokio::time::advance(LEAST_IDLE).await;
        assert!(activity.idle_since(true).is_none() && !activity.leave(true));
        client.read_exact(&mut [0; 4]).await.unwrap();
        server.flush().await.unwrap();
        tokio::time::advance(LEAST_IDLE).await;
        assert!(activity.leave(false) && !activity.leaves_unanswered());
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_hurry_only_those_go_who_have_not_asked() {
        let activity = Activity::default();
        assert!(!activity.leave(false) && activity.idle_since(true).is_some());
        activity.heard();
        assert!(!activity.leave(false) && activity.idle_since(true).is_some());
        activity.asked();
        assert!(activity.idle_since(true).is_none());
        tokio::time::advance(SLOW_HEAD).await;
        assert!(activity.idle_since(false).is_some(), "it was no request after all");
        assert!(activity.begin() && !activity.leave(true));
        activity.done();
        assert!(!activity.leave(true), "its next request may be on its way");
        activity.heard();
        assert!(activity.leave(true) && activity.leaves_unanswered());
        assert!(!activity.begin(), "what it asks in this moment is not done");
        assert!(activity.is_leaving() && !activity.leaves_unanswered());
    }

    #[tokio::test]
    async fn what_comes_after_it_was_told_to_leave_is_not_read() {
        let (server, mut client) = tokio::io::duplex(64);
        let activity = Arc::<Activity>::default();
        let mut server = Attended::new(server, Arc::clone(&activity), WAITS);
        assert!(activity.leave(true) && !activity.leave(true));
        client.write_all(b"head").await.unwrap();
        assert_eq!(server.read(&mut [0; 16]).await.unwrap(), 0);
        activity.told_to_leave().await;
    }
}
