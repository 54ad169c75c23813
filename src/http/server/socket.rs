//! A client's socket, of which the server keeps hold while hyper reads and writes it.
//!
//! Why: a FIN behind a request does not cancel it, so hyper does not look for one while it answers, and a stream goes on
//! too. A client that has gone sends the same FIN, though, and must not keep its place until something happens to be
//! written: so something is written then, and a client that has gone answers it with a reset.
//!
//! Laws: one owner shuts it down: a shutdown while somebody else looks at it is left to the one that comes last. A client
//! that has vanished without a word is given up within a minute, whether or not something is on its way to it. What it
//! has not been sent yet waits in the node, where it is counted, and not in the system's buffers.
//!
//! Not here: clients that are there and slow ([`super::write_timeout`]).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::host_guard;

/// How long what was sent may be without any sign that it has arrived.
const UNHEARD: Duration = Duration::from_secs(45);
/// How long a connection is silent before its client is asked whether it is there, and how often it is asked after that.
const SILENCE: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How often it is asked in vain; together with the silence as long as [`UNHEARD`].
const ASKED: u32 = 3;
/// How many connections the system takes before they are accepted.
pub(crate) const BACKLOG: i32 = 1024;
/// How many bytes of a request are looked at to see whether its head has come.
const HEAD_SEEN: usize = 4 << 10;
/// How many bytes the system keeps beyond what is on its way.
const UNSENT_BYTES: u32 = 128 << 10;

/// Makes a client's socket lively, and bounded in what it holds.
///
/// # Errors
/// Where the system refuses; the socket can be used all the same.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(SILENCE).with_interval(ASK_EVERY).with_retries(ASKED);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_user_timeout(Some(UNHEARD))?;
        socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    }
    Ok(())
}

/// Tells that a client has sent a FIN. It may have closed its side only, or be gone: what is sent to it next shows which.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fin(Arc<Notify>);

impl Fin {
    /// Returns once there is one; for one caller, and once.
    pub(crate) async fn seen(&self) {
        self.0.notified().await;
    }
}

/// What can be seen of a connection's first request before any of it is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Its whole head has come.
    pub(crate) whole: bool,
    /// It is no probe.
    pub(crate) no_probe: bool,
}

impl Seen {
    fn of(bytes: &[u8]) -> Self {
        // Empty lines may stand before a request.
        let begun = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
        let bytes = &bytes[begun..];
        let mut line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default().split(|byte| *byte == b' ');
        // A target that is not a path, and one that may go on, say nothing.
        let path = match (line.nth(1), line.next()) {
            (Some(target), Some(_)) if target.starts_with(b"/") => std::str::from_utf8(target).ok(),
            _ => None,
        };
        let no_probe = path.is_some_and(|target| !host_guard::is_probe(target.split('?').next().unwrap_or_default()));
        Self { whole: bytes.windows(4).any(|end| end == b"\r\n\r\n"), no_probe }
    }
}

/// Looks at what has come to `stream`, without waiting.
///
/// # Errors
/// Where the socket cannot be used.
pub(crate) fn look(stream: TcpStream) -> io::Result<(TcpStream, Seen)> {
    let stream = stream.into_std()?;
    let mut bytes = [0; HEAD_SEEN];
    // An error is that nothing has come.
    let count = stream.peek(&mut bytes).unwrap_or(0);
    Ok((TcpStream::from_std(stream)?, Seen::of(&bytes[..count])))
}

/// A socket that more than one may look at.
pub(crate) struct Socket(Arc<TcpStream>);

impl Socket {
    /// Keeps hold of `stream`; also what returns once the connection is broken, and before that says so to `fin` where the
    /// client has closed its side and nothing of it is left to read.
    pub(crate) fn new(stream: TcpStream, fin: Fin) -> (Self, impl Future<Output = ()> + Send) {
        let stream = Arc::new(stream);
        let seen = Arc::clone(&stream);
        let broken = async move {
            match seen.peek(&mut [0]).await {
                Ok(0) => fin.0.notify_one(),
                // Whoever sends something during a stream is there; what he sends waits for the stream's end.
                Ok(_) => {}
                Err(_) => return,
            }
            while !matches!(seen.ready(Interest::ERROR).await, Ok(ready) if ready.is_error() || ready.is_empty()) {}
        };
        (Self(stream), broken)
    }

    /// Tries `attempt` whenever the socket may be written to.
    fn when_writable<T>(
        &self,
        context: &mut Context<'_>,
        mut attempt: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match attempt() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done.map(drop)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.when_writable(context, || self.0.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.when_writable(context, || self.0.try_write_vectored(parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Arc::get_mut(&mut self.0) {
            Some(stream) => Pin::new(stream).poll_shutdown(context),
            None => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_of_a_request_shows_whether_it_may_be_a_probe() {
        let seen = |text: &str| {
            let seen = Seen::of(text.as_bytes());
            (seen.whole, seen.no_probe)
        };
        for unknown in ["", "\r\n\r\n", "GET", "GET /sto", "GET /healt", "GET http://a/store HTTP/1.1\r\n"] {
            assert_eq!(seen(unknown), (false, false), "{unknown:?}");
        }
        assert_eq!(seen("\r\nGET /store/key HTTP/1.1\r\nHo"), (false, true));
        assert_eq!(seen("GET /livez?timeout=1s HTTP/1.1\r\nHost: a\r\n\r\n"), (true, false));
        assert_eq!(seen("HEAD /health/ HTTP/1.1\r\n\r\n"), (true, false));
        assert_eq!(seen("POST /txn HTTP/1.1\r\n\r\n{}"), (true, true));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_client_that_has_vanished_is_given_up_within_a_minute() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (stream, _) = accepted.unwrap();
        prepare(&stream).unwrap();
        let socket = SockRef::from(&stream);
        let silence = socket.tcp_keepalive_time().unwrap();
        let asked = socket.tcp_keepalive_interval().unwrap() * socket.tcp_keepalive_retries().unwrap();
        assert!(socket.keepalive().unwrap() && silence + asked < Duration::from_secs(60));
        // What is on its way counts from when it was sent, and is not asked about.
        assert!(socket.tcp_user_timeout().unwrap().is_some_and(|unheard| unheard < Duration::from_secs(60)));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT_BYTES);
    }
}
