//! A stream whose writes fail when the client takes its response too slowly.
//!
//! Why: a response of a mebibyte stays in memory until the client has taken it, and its connection is one of a bounded
//! number. A client that never reads would hold both for ever, and one that reads a byte a second for twelve days.
//!
//! Invariants: a write fails once the client has used up its grace period ([`super::min_rate`]). Each response starts with the
//! whole grace period.
//!
//! See also: timeouts while a request is awaited ([`super::activity`]).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::min_rate::MinRate;

/// A stream whose writes time out below the least rate.
pub(crate) struct WriteTimeout<S> {
    stream: S,
    grace: Duration,
    rate: MinRate,
    /// While a write is blocked: since when, and a timer for the end of the grace period.
    blocked: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<S> WriteTimeout<S> {
    /// Wraps `stream`; see [`MinRate::new`] for `grace`.
    pub(crate) fn new(stream: S, grace: Duration) -> Self {
        Self { stream, grace, rate: MinRate::new(grace), blocked: None }
    }

    /// Counts the result of a write, and fails a blocked one at the end of the grace period.
    fn limit(&mut self, write: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Poll::Ready(written) = write else {
            // The socket's buffer is full, so from here on the node waits for the client. The timer is made once a block:
            // hyper may poll a blocked write many times.
            let left = self.rate.left();
            let (_, timer) = self.blocked.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
            return timer.as_mut().poll(context).map(|()| {
                let why = "the client takes its response too slowly or not at all";
                Err(io::Error::new(io::ErrorKind::TimedOut, why))
            });
        };
        // Example with a grace period of 5 s: a write is blocked for 2 s, then the socket takes 64 KiB. 5 - 2 + 1 = 4 s are left
        // for the next block. A response that is never blocked costs nothing.
        if let Some((since, _)) = self.blocked.take() {
            self.rate.waited(since.elapsed());
        }
        if let Ok(bytes) = written {
            self.rate.transferred(bytes);
        }
        Poll::Ready(written)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before && self.blocked.is_none() {
            // A new request. The system has taken all bytes of the response before, so the next one has the whole grace period.
            self.rate = MinRate::new(self.grace);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limit(write, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.limit(write, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_client_above_the_least_rate_is_served_and_one_below_is_not() {
        let (server, mut client) = tokio::io::duplex(64);
        // A grace period of 200 ms is worth 13 KiB at the least rate.
        let mut server = WriteTimeout::new(server, Duration::from_millis(200));
        let fast = async { client.read_exact(&mut vec![0; 200 << 10]).await.map(drop) };
        let (written, taken) = tokio::join!(server.write_all(&[7; 200 << 10]), fast);
        assert!(written.is_ok() && taken.is_ok());
        let dripping = async {
            while client.read_u8().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let slow = async {
            let written = timeout(Duration::from_secs(10), server.write_all(&[7; 200 << 10])).await.unwrap();
            drop(server);
            written
        };
        let (written, ()) = tokio::join!(slow, dripping);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn the_next_request_starts_with_the_whole_grace() {
        let (server, mut client) = tokio::io::duplex(4);
        let mut server = WriteTimeout::new(server, Duration::from_millis(400));
        for _ in 0..4 {
            let slow = async {
                tokio::time::sleep(Duration::from_millis(250)).await;
                client.read_exact(&mut [0; 8]).await.unwrap();
                client.write_all(b"next").await.unwrap();
            };
            let answer = async {
                server.write_all(&[7; 8]).await.unwrap();
                server.read_exact(&mut [0; 4]).await.unwrap();
            };
            tokio::join!(slow, answer);
        }
    }
}
