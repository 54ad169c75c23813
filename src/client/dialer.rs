//! Dialer: connections of the pool, plain or with TLS.
//!
//! Invariants: with TLS there is no connection before the server's certificate names the host of the endpoint. A client with
//! a token has plain connections only to this machine, whatever a name resolves to.
//!
//! See also: [`crate::trust::connector`] (the handshake), `http_client` (the pool).

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use super::access::Access;
use crate::trust::connector::{HandshakeError, RefusedBy};

type BoxError = Box<dyn Error + Send + Sync>;

/// Opens connections to the host and port of a URL.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    tcp: HttpConnector,
    access: Access,
    handshake_timeout: Option<Duration>,
}

/// A connection, plain or with TLS.
pub(super) struct Stream(TokioIo<Box<dyn Transport>>);

trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

impl Dialer {
    /// Without `timeout` only the timeout of the request bounds a dial; with it, TCP and TLS may take as long each.
    pub(super) fn new(access: Access, timeout: Option<Duration>) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(timeout);
        tcp.enforce_http(false);
        Self { tcp, access, handshake_timeout: timeout }
    }

    async fn dial(mut self, target: Uri) -> Result<Stream, BoxError> {
        let host = target.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let stream = self.tcp.call(target).await?.into_inner();
        let Some(tls) = self.access.tls else {
            check_plain(&self.access, stream.peer_addr()?.ip())?;
            return Ok(Stream(TokioIo::new(Box::new(stream))));
        };
        let handshake = tls.connect(&host, stream);
        let secured = match self.handshake_timeout {
            None => handshake.await?,
            Some(limit) => tokio::time::timeout(limit, handshake).await.map_err(|_| HandshakeError {
                reason: format!("no complete TLS handshake within {limit:?}"),
                side: RefusedBy::Network,
            })??,
        };
        Ok(Stream(TokioIo::new(Box::new(secured))))
    }
}

/// Checks whether requests may go to `peer` without TLS.
fn check_plain(access: &Access, peer: IpAddr) -> Result<(), &'static str> {
    if access.token.is_some() && !peer.to_canonical().is_loopback() {
        return Err("a token goes only over TLS or to this machine, and this is plain HTTP to another one");
    }
    Ok(())
}

impl Service<Uri> for Dialer {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        Box::pin(self.clone().dial(target))
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Token;
    use super::*;

    #[test]
    fn a_token_goes_without_tls_to_this_machine_only() {
        let access = Access::default().with_token(Token::new("hkv_secret").unwrap());
        for (peer, is_local) in [("127.0.0.1", true), ("::1", true), ("::ffff:127.0.0.1", true), ("10.0.0.1", false)] {
            let peer = peer.parse().unwrap();
            assert_eq!(check_plain(&access, peer).is_ok(), is_local, "{peer}");
            assert!(check_plain(&Access::default(), peer).is_ok());
        }
    }
}
