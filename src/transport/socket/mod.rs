//! The socket of a peer: plain or with TLS, its options, and its two halves.
//!
//! Why: frames are the same over both. And what the system has taken cannot be overtaken any more; by default it takes megabytes beyond what
//! is on its way.
//!
//! See also: `link::send_queue` (what overtakes what), [`crate::trust::peer_tls`] (the handshake), [`isolation`].

pub mod isolation;

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::trust::peer_tls::TlsStream;
use crate::trust::verified_certificate::VerifiedCertificate;
use isolation::Severable;

/// The bytes that the system holds beyond those on their way.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 << 10;

/// The reading half of a connection.
pub type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
/// The writing half of a connection. Shut down, it ends the connection for the other side's reads.
pub type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection to or from a peer.
pub enum PeerStream {
    /// Every host on the way may read and change it.
    Plain(TcpStream),
    /// Encrypted, and both ends are nodes of the cluster.
    Tls(Box<TlsStream>, Arc<VerifiedCertificate>),
}

impl PeerStream {
    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(..))
    }

    /// Returns what ends once the certificate at the other end is not valid any more, with the reason; never on a plain connection.
    pub fn until_distrusted(&self) -> impl Future<Output = String> + Send + use<> {
        let certificate = match self {
            Self::Plain(_) => None,
            Self::Tls(_, certificate) => Some(Arc::clone(certificate)),
        };
        async move {
            match certificate {
                None => pending().await,
                Some(certificate) => {
                    let reason = certificate.until_refused().await;
                    format!("the peer's certificate is not valid any more: {reason}")
                }
            }
        }
    }

    /// The certificate at the other end; None on a plain connection.
    pub fn certificate(&self) -> Option<&Arc<VerifiedCertificate>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(_, certificate) => Some(certificate),
        }
    }

    /// Splits the connection.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Plain(stream) => {
                let (reader, writer) = stream.into_split();
                (Box::new(Severable(reader)), Box::new(Severable(writer)))
            }
            Self::Tls(stream, _) => {
                let (reader, writer) = tokio::io::split(stream);
                (Box::new(Severable(reader)), Box::new(Severable(writer)))
            }
        }
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        isolation::check()?;
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream, _) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        isolation::check()?;
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream, _) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Sets the options; the socket can be used without them, too.
///
/// # Errors
/// If the system refuses one.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Control frames overtake appends in the send queue only, not in the socket. Linux takes up to 4 MiB into a socket
    // by default: on a link of 1 MB/s a heartbeat would wait 4 s behind them. With 128 KiB it waits 0.13 s, and for
    // what is on its way.
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES)?;
    Ok(())
}
