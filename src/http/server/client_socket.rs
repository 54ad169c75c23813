//! A client's socket: its options, its first request before it is read, and the client's FIN while hyper writes.
//!
//! Why: a FIN behind a request does not cancel the request (a half-close), so hyper does not look for one while it answers,
//! and an event stream goes on too. But a client that is gone has sent the same FIN, and must not keep its slot until the
//! next event happens to be written. So the stream writes something as soon as the FIN arrives: a client that is gone
//! answers that with a reset.
//!
//! Invariants: one owner shuts the socket down: a shutdown while the other one still looks at it is left to the last owner.
//! A client that has vanished without a FIN is given up within a minute, whether or not bytes are on their way to it. Bytes
//! that it has not been sent wait in the node, where they count against a budget, and not in the system's buffers.
//!
//! See also: clients that are there and slow ([`super::write_timeout`]).

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

use super::host_guard;

/// `TCP_USER_TIMEOUT`: how long sent bytes may stay unacknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(45);
/// `TCP_KEEPIDLE` and `TCP_KEEPINTVL`: after how much silence keepalive probes are sent, and how often.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// `TCP_KEEPCNT`: how many probes may stay unanswered; 30 s + 3 * 5 s is as long as [`USER_TIMEOUT`].
const KEEPALIVE_PROBES: u32 = 3;
/// The listen backlog.
pub(crate) const BACKLOG: i32 = 1024;
/// How many bytes of the first request are peeked at.
const PEEK_BYTES: usize = 4 << 10;
/// How many bytes are read while an event stream is written; the FIN behind more of them is not seen.
const AHEAD_BYTES: usize = 1 << 10;
/// `TCP_NOTSENT_LOWAT`: how many unsent bytes the system buffers.
const NOTSENT_BYTES: u32 = 128 << 10;

/// Sets the options of a client's socket.
///
/// # Errors
/// Where the system refuses one; the socket can be used all the same.
pub(crate) fn configure(stream: &TcpStream) -> io::Result<()> {
    // Without it Nagle's algorithm holds the last segment of a response back until the client's delayed ACK, up to 40 ms.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    {
        // Keepalive runs only while nothing is unacknowledged. With bytes on their way the system would retransmit for about
        // 15 minutes (tcp_retries2), so that case needs a timeout of its own.
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        // Otherwise the send buffer grows to megabytes: a write would look taken long before the client reads it, and
        // neither the memory budget nor the least rate would see it.
        socket.set_tcp_notsent_lowat(NOTSENT_BYTES)?;
    }
    Ok(())
}

/// Signals that a client has sent a FIN: it has closed its write side, or is gone. What is sent to it next shows which.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fin(Arc<Notify>);

impl Fin {
    /// Waits for the FIN; returns once, to one caller.
    pub(crate) async fn seen(&self) {
        self.0.notified().await;
    }
}

/// What the first bytes of a connection show of its first request, before they are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PeekedRequest {
    /// Its whole head has arrived.
    pub(crate) head_complete: bool,
    /// Its path is known, and is not that of a health probe.
    pub(crate) is_no_probe: bool,
}

impl PeekedRequest {
    fn parse(bytes: &[u8]) -> Self {
        // Empty lines may precede a request (RFC 9112, section 2.2).
        let begun = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
        let bytes = &bytes[begun..];
        let mut line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default().split(|byte| *byte == b' ');
        // The path is known only where a space follows it: `GET /liv` may become `GET /livez HTTP/1.1`. A target that is no
        // path (`GET http://host/livez`) is left to hyper. Whatever is not known may be a probe.
        let path = match (line.nth(1), line.next()) {
            (Some(target), Some(_)) if target.starts_with(b"/") => std::str::from_utf8(target).ok(),
            _ => None,
        };
        let is_no_probe =
            path.is_some_and(|target| !host_guard::is_probe(target.split('?').next().unwrap_or_default()));
        Self { head_complete: bytes.windows(4).any(|end| end == b"\r\n\r\n"), is_no_probe }
    }
}

/// Peeks at the bytes that have arrived on `stream`, without waiting and without consuming them.
///
/// # Errors
/// Where the socket cannot be used.
pub(crate) fn peek_request(stream: TcpStream) -> io::Result<(TcpStream, PeekedRequest)> {
    // The standard library's peek is one system call. tokio's waits for readiness, of which a new socket has none yet.
    let stream = stream.into_std()?;
    let mut bytes = [0; PEEK_BYTES];
    // An error means that nothing has arrived.
    let count = stream.peek(&mut bytes).unwrap_or(0);
    Ok((TcpStream::from_std(stream)?, PeekedRequest::parse(&bytes[..count])))
}

/// A socket with two owners: hyper's connection, and the future that watches for its end.
///
/// It is split for one system call less a request: tokio knows that a read which leaves room in its buffer has emptied the socket, and
/// does not try again before more has arrived. That read needs an owner of its own.
pub(crate) struct Socket {
    read: OwnedReadHalf,
    /// The writes, and what the watching future looks at.
    shared: Arc<OwnedWriteHalf>,
    ahead: ReadAhead,
}

/// What the watching future has read before hyper asks for it.
///
/// Example: a client ends a TLS connection with a close_notify and a FIN. The FIN shows only to a reader that takes the
/// close_notify out of the socket; hyper, which reads nothing while it writes an event stream, gets it later.
type ReadAhead = Arc<Mutex<VecDeque<u8>>>;

fn locked(ahead: &ReadAhead) -> MutexGuard<'_, VecDeque<u8>> {
    ahead.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Socket {
    /// Wraps `stream`. The future beside it signals `fin` when the client's FIN has arrived, and ends when the connection is
    /// broken.
    pub(crate) fn new(stream: TcpStream, fin: Fin) -> (Self, impl Future<Output = ()> + Send) {
        let ((read, write), ahead) = (stream.into_split(), ReadAhead::default());
        let shared = Arc::new(write);
        let socket = Self { read, shared: Arc::clone(&shared), ahead: Arc::clone(&ahead) };
        let broken = async move {
            let stream: &TcpStream = (*shared).as_ref();
            match read_until_fin(stream, &ahead).await {
                Ok(true) => fin.0.notify_one(),
                // More bytes than fit: the client is there. The rest stays unread until the present response ends.
                Ok(false) => {}
                Err(_) => return,
            }
            // An RST sets the error state; other wake-ups are waited out. Readiness is empty only when tokio's driver ends.
            while !matches!(stream.ready(Interest::ERROR).await, Ok(ready) if ready.is_error() || ready.is_empty()) {}
        };
        (socket, broken)
    }

    /// Calls `attempt` when the socket is writable, again after each `WouldBlock`.
    fn when_writable<T>(
        &self,
        context: &mut Context<'_>,
        mut attempt: impl FnMut(&TcpStream) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let stream: &TcpStream = (*self.shared).as_ref();
        loop {
            ready!(stream.poll_write_ready(context))?;
            match attempt(stream) {
                // `try_write` has cleared the readiness, so the next poll registers this task.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        {
            let mut ahead = locked(&self.ahead);
            if !ahead.is_empty() {
                let count = ahead.len().min(buffer.remaining());
                ahead.drain(..count).for_each(|byte| buffer.put_slice(&[byte]));
                return Poll::Ready(Ok(()));
            }
        }
        Pin::new(&mut self.read).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.when_writable(context, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.when_writable(context, |stream| stream.try_write_vectored(parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // `poll_shutdown` needs exclusive access. While the other owner lives, dropping the last `Arc` shuts the socket down.
        match Arc::get_mut(&mut self.shared) {
            Some(stream) => Pin::new(stream).poll_shutdown(context),
            None => Poll::Ready(Ok(())),
        }
    }
}

/// Reads ahead until the client's FIN (true), or until [`AHEAD_BYTES`] have come before it (false).
async fn read_until_fin(stream: &TcpStream, ahead: &ReadAhead) -> io::Result<bool> {
    loop {
        stream.readable().await?;
        let read = {
            let mut chunk = [0; AHEAD_BYTES];
            let read = stream.try_read(&mut chunk);
            let count = *read.as_ref().unwrap_or(&0);
            locked(ahead).extend(&chunk[..count]);
            read
        };
        match read {
            Ok(0) => return Ok(true),
            Ok(_) if locked(ahead).len() >= AHEAD_BYTES => return Ok(false),
            // The reader of the connection is in the same task. It may wait for these bytes, so it has to be polled again.
            Ok(_) => tokio::task::yield_now().await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_show_whether_a_request_may_be_a_probe() {
        let peeked = |text: &str| {
            let request = PeekedRequest::parse(text.as_bytes());
            (request.head_complete, request.is_no_probe)
        };
        for unknown in ["", "\r\n\r\n", "GET", "GET /sto", "GET /healt", "GET http://a/store HTTP/1.1\r\n"] {
            assert_eq!(peeked(unknown), (false, false), "{unknown:?}");
        }
        assert_eq!(peeked("\r\nGET /store/key HTTP/1.1\r\nHo"), (false, true));
        assert_eq!(peeked("GET /livez?timeout=1s HTTP/1.1\r\nHost: a\r\n\r\n"), (true, false));
        assert_eq!(peeked("HEAD /health/ HTTP/1.1\r\n\r\n"), (true, false));
        assert_eq!(peeked("POST /txn HTTP/1.1\r\n\r\n{}"), (true, true));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_client_that_has_vanished_is_given_up_within_a_minute() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (stream, _) = accepted.unwrap();
        configure(&stream).unwrap();
        let socket = SockRef::from(&stream);
        let idle = socket.tcp_keepalive_time().unwrap();
        let probed = socket.tcp_keepalive_interval().unwrap() * socket.tcp_keepalive_retries().unwrap();
        assert!(socket.keepalive().unwrap() && idle + probed < Duration::from_secs(60));
        // With bytes unacknowledged the user timeout counts instead of keepalive.
        assert!(socket.tcp_user_timeout().unwrap().is_some_and(|timeout| timeout < Duration::from_secs(60)));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), NOTSENT_BYTES);
    }
}
