//! HTTP client: one request to one address, and its response.
//!
//! Why: the retry rule must know whether a request can have reached the server, so an error says whether it was sent.
//!
//! Invariants: a request is sent once; the connection pool resends only what was never written to a connection. A
//! timeout covers name resolution, dialling, the TLS handshake, sending and the whole response. A response has at most 64
//! MiB. No redirect is followed.
//!
//! See also: [`super::endpoints`] for the choice of the address, [`super::retry`] for the retry rule.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::access::Access;
use super::dialer::Dialer;
use super::retry::{CERTIFICATE_REFUSED, TLS_FAILED};
use crate::trust::connector::{self, RefusedBy};

/// The maximum size of a response.
pub(super) const MAX_RESPONSE_BYTES: usize = 64 << 20;
/// The idle timeout of pooled connections; shorter than a node's, so that the client closes first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// The detail of a connection that the server refused before it saw the request.
const REFUSED: &str = "refused the connection: it is at its connection limit";

/// A pool of connections to any number of addresses; clones share it.
#[derive(Debug, Clone)]
pub(super) struct HttpClient {
    pool: legacy::Client<Dialer, Full<Bytes>>,
    access: Access,
}

/// A request to a node.
#[derive(Debug, Clone)]
pub(super) struct ApiRequest {
    pub(super) method: Method,
    /// The path, with the query where there is one; percent-encoded.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// A response of a node, read to its end.
#[derive(Debug)]
pub(super) struct ApiResponse {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why there is no response.
#[derive(Debug)]
pub(super) struct ExchangeError {
    /// Whether the request may have reached a server.
    pub(super) sent: bool,
    /// Whether the server refused the connection before it saw the request.
    pub(super) refused: bool,
    /// Whether the timeout passed.
    pub(super) timed_out: bool,
    /// The code of a failure that lasts until files or settings change, such as a certificate that is not trusted.
    pub(super) lasting: Option<&'static str>,
    /// What happened, for a log or a terminal.
    pub(super) detail: String,
}

impl ApiRequest {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// Adds a header.
    ///
    /// # Errors
    /// A message where the value cannot be a header.
    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Result<Self, String> {
        let value =
            HeaderValue::from_str(value).map_err(|_| format!("{value:?} cannot be sent as the header {name}"))?;
        self.headers.insert(name, value);
        Ok(self)
    }

    pub(super) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

impl ExchangeError {
    pub(super) fn new(sent: bool, detail: String) -> Self {
        Self { sent, refused: false, timed_out: false, lasting: None, detail }
    }

    pub(super) fn timed_out(timeout: Duration) -> Self {
        Self { timed_out: true, ..Self::new(true, format!("no answer within {timeout:?}")) }
    }

    fn of(error: &legacy::Error) -> Self {
        if let Some(refusal) = connector::handshake_error(error) {
            let lasting = match refusal.side {
                RefusedBy::Client | RefusedBy::OtherProtocol => Some(TLS_FAILED),
                RefusedBy::Server => Some(CERTIFICATE_REFUSED),
                RefusedBy::Network => None,
            };
            return Self { lasting, ..Self::new(false, refusal.reason) };
        }
        match with_causes(error) {
            text if is_early_refusal(&text) => Self { refused: true, ..Self::new(false, REFUSED.into()) },
            text => Self::new(!error.is_connect(), text),
        }
    }
}

impl HttpClient {
    /// Creates a pool without connections. Without `connect_timeout` only the timeout of the exchange bounds a dial.
    pub(super) fn new(access: Access, connect_timeout: Option<Duration>) -> Self {
        let pool = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(Dialer::new(access.clone(), connect_timeout));
        Self { pool, access }
    }

    /// Sends `request` to `address` (`host:port`) and reads the whole response, within `timeout`.
    pub(super) async fn exchange(
        &self,
        address: &str,
        request: &ApiRequest,
        timeout: Duration,
    ) -> Result<ApiResponse, ExchangeError> {
        let exchange = async { read_response(self.open(address, request).await?).await };
        let Ok(response) = tokio::time::timeout(timeout, exchange).await else {
            return Err(ExchangeError::timed_out(timeout));
        };
        response
    }

    /// Sends `request` and waits for the head of the response, without a timeout.
    pub(super) async fn open(&self, address: &str, request: &ApiRequest) -> Result<Response<Incoming>, ExchangeError> {
        let mut outgoing = Request::new(Full::new(request.body.clone()));
        let uri = format!("{}://{address}{}", self.access.scheme(), request.path);
        *outgoing.uri_mut() = uri.parse().map_err(|error| ExchangeError::new(false, with_causes(&error)))?;
        *outgoing.method_mut() = request.method.clone();
        *outgoing.headers_mut() = request.headers.clone();
        self.access.authorize(outgoing.headers_mut());
        self.pool.request(outgoing).await.map_err(|error| ExchangeError::of(&error))
    }
}

/// Whether an error of hyper means that the server has sent a response before the request was written: it refused the
/// connection, which is full. hyper has no other test of it than the text.
fn is_early_refusal(text: &str) -> bool {
    text.contains("received unexpected message from connection")
}

/// Reads the body of a response.
pub(super) async fn read_response(response: Response<Incoming>) -> Result<ApiResponse, ExchangeError> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_RESPONSE_BYTES).collect().await;
    let body = body.map_err(|error| ExchangeError::new(true, format!("the answer broke off: {error}")))?.to_bytes();
    Ok(ApiResponse { status: head.status.as_u16(), headers: head.headers, body })
}

/// Formats an error with its causes: hyper alone prints only "client error (Connect)".
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn a_response_before_the_request_is_known_as_a_refusal() {
        let (client, mut server) = tokio::io::duplex(1024);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
        server.write_all(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let request = sender.send_request(Request::new(Full::new(Bytes::new())));
        let (_, response) = tokio::join!(connection, request);
        let error = with_causes(&response.unwrap_err());
        assert!(is_early_refusal(&error), "{error}");
    }
}
