//! Isolation: this process is cut off from its peers on purpose, as by a pulled cable.
//!
//! Why: `huskv demo` shows what a cut network does, on machines where no firewall can be changed. Clients are still served.
//!
//! Invariants: while it lasts no byte goes to or comes from a peer, on connections of before or new ones; each read or write fails, so
//! connections end as broken ones do. Only the process that started this one can ask for it ([`crate::node::Stop`]).

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Of the whole process, since it stands for its network.
static IS_ISOLATED: AtomicBool = AtomicBool::new(false);

/// Cuts this process off from all peers, or ends that.
pub fn set(is_isolated: bool) {
    IS_ISOLATED.store(is_isolated, Ordering::Relaxed);
}

/// Fails while the process is isolated.
pub(super) fn check() -> io::Result<()> {
    if IS_ISOLATED.load(Ordering::Relaxed) {
        return Err(io::Error::new(
            io::ErrorKind::NetworkUnreachable,
            "this node is cut off from its peers on purpose",
        ));
    }
    Ok(())
}

/// A half of a connection, or a whole one, that fails while the process is isolated.
pub(super) struct Severable<T>(pub(super) T);

impl<T: AsyncRead + Unpin> AsyncRead for Severable<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        check()?;
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Severable<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        check()?;
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        check()?;
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        check()?;
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
