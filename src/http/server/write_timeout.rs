//! A connection on which a client may not stop taking what it asked for.
//!
//! Why: an answer of a mebibyte stays in memory until the client has taken it, and its connection is one of a bounded
//! number. A client that asks and never reads would hold both for ever, and one that reads a byte a second almost.
//!
//! Laws: writing fails once the client has used up its patience ([`super::min_rate`]). Each answer begins with all of it.
//!
//! Not here: waiting for requests ([`crate::http::server`]).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::min_rate::MinRate;

/// A stream whose writing fails where it is too slow.
pub(crate) struct WriteTimeout<S> {
    stream: S,
    patience: Duration,
    pace: MinRate,
    /// Since when the client takes nothing, and the end of the patience with it.
    standstill: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<S> WriteTimeout<S> {
    /// Wraps `stream`; see [`MinRate::new`] for `patience`.
    pub(crate) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, pace: MinRate::new(patience), standstill: None }
    }

    /// The stream itself.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }

    fn bounded(&mut self, progress: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Poll::Ready(done) = progress else {
            let left = self.pace.left();
            let (_, end) = self.standstill.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
            return end.as_mut().poll(context).map(|()| {
                let why = "the client takes its answer too slowly or not at all";
                Err(io::Error::new(io::ErrorKind::TimedOut, why))
            });
        };
        if let Some((since, _)) = self.standstill.take() {
            self.pace.waited(since.elapsed());
        }
        if let Ok(bytes) = done {
            self.pace.moved(bytes);
        }
        Poll::Ready(done)
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
        if buffer.filled().len() > before && self.standstill.is_none() {
            // All that was written before has been taken.
            self.pace = MinRate::new(self.patience);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(progress, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.bounded(progress, context)
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
    async fn a_client_that_takes_enough_is_served_and_one_that_takes_too_little_is_not() {
        let (server, mut client) = tokio::io::duplex(64);
        // Patience of 200 ms is 13 KiB at the least rate.
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
    async fn patience_begins_anew_with_the_next_request() {
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
