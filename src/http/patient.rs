//! A connection on which a client may not stop taking what it asked for.
//!
//! Why: an answer of a mebibyte stays in memory until the client has taken it, and its connection is one of a bounded
//! number. A client that asks and never reads would hold both for ever.
//!
//! Laws: where nothing at all could be written for as long as the connection is patient, writing fails. A slow client
//! that takes some now and then is served.
//!
//! Not here: waiting for requests ([`super::server`]).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A stream whose writing fails after a standstill.
pub(super) struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Runs while the client takes nothing.
    standstill: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// Wraps `stream`; the longest standstill is `patience`.
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, standstill: None }
    }

    /// The stream itself.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    fn bounded<T>(&mut self, progress: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.standstill = None;
            return progress;
        }
        let patience = self.patience;
        let standstill = self.standstill.get_or_insert_with(|| Box::pin(sleep(patience)));
        match standstill.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing"))),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
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
        let progress = Pin::new(&mut self.stream).poll_flush(context);
        self.bounded(progress, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bounded(progress, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_slow_client_is_served_and_one_that_takes_nothing_is_not() {
        let (server, mut client) = tokio::io::duplex(4);
        let mut server = Patient::new(server, Duration::from_millis(200));
        let slow = async {
            let mut taken = [0; 40];
            for byte in &mut taken {
                tokio::time::sleep(Duration::from_millis(20)).await;
                *byte = client.read_u8().await.unwrap();
            }
            taken
        };
        let (written, taken) = tokio::join!(server.write_all(&[7; 40]), slow);
        assert!(written.is_ok() && taken == [7; 40]);
        let stuck = timeout(Duration::from_secs(10), server.write_all(&[7; 40])).await.unwrap();
        assert_eq!(stuck.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
