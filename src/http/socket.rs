//! A client's socket, of which the server keeps hold while hyper reads and writes it.
//!
//! Why: a FIN behind a request does not cancel it, so hyper does not look for one while it answers. A stream has no end
//! of its own, though, and a client that has gone must not keep its place until something happens to be written.
//!
//! Laws: one owner shuts it down: a shutdown while somebody else looks at it is left to the one that comes last. A client
//! that has vanished without a word is given up within a minute, whether or not something is on its way to it. What it
//! has not been sent yet waits in the node, where it is counted, and not in the system's buffers.
//!
//! Not here: clients that are there and slow ([`super::patient`]).

use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How long what was sent may be without any sign that it has arrived.
const UNHEARD: Duration = Duration::from_secs(45);
/// How long a connection is silent before its client is asked whether it is there, and how often it is asked after that.
const SILENCE: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How often it is asked in vain; together with the silence as long as [`UNHEARD`].
const ASKED: u32 = 3;
/// How many bytes the system keeps beyond what is on its way.
const UNSENT_BYTES: u32 = 128 << 10;

/// Makes a client's socket lively, and bounded in what it holds.
///
/// # Errors
/// Where the system refuses; the socket can be used all the same.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
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

/// A socket that more than one may look at.
pub(super) struct Socket(Arc<TcpStream>);

impl Socket {
    /// Keeps hold of `stream`; also what returns once the client has closed its side and nothing of it is left to read.
    pub(super) fn new(stream: TcpStream) -> (Self, impl Future<Output = ()> + Send) {
        let stream = Arc::new(stream);
        let seen = Arc::clone(&stream);
        let closed = async move {
            // Whoever sends something during a stream is there; what he sends waits for the stream's end.
            if !matches!(seen.peek(&mut [0]).await, Ok(0) | Err(_)) {
                pending().await
            }
        };
        (Self(stream), closed)
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
