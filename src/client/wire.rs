//! One HTTP exchange: a request to an address, and its answer.
//!
//! Why: whoever decides whether a request may be sent again must know whether it can have left, so a failure says it.
//!
//! Laws: a request is sent once; the pool sends again only what was never written to a connection. A timeout covers
//! everything: looking the name up, dialling, sending, and the whole answer. An answer has at most 64 MiB.
//!
//! Not here: which address ([`super::endpoints`]), and whether to try again ([`super::retry`]).

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// The most bytes that an answer may have.
pub(super) const ANSWER_BYTES: usize = 64 << 20;
/// How long an idle connection is kept; shorter than a node keeps it, so that it is not found closed.
const IDLE: Duration = Duration::from_secs(5);

/// Connections to any number of addresses; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Wire(legacy::Client<HttpConnector, Full<Bytes>>);

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// The path, with the query where there is one; percent-encoded.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Trouble {
    /// Whether the request may have reached somebody.
    pub(super) sent: bool,
    /// Whether time ran out.
    pub(super) late: bool,
    /// What happened, for a person.
    pub(super) detail: String,
}

impl Ask {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// Adds a header.
    ///
    /// # Errors
    /// In words, where the value cannot be a header.
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

impl Trouble {
    fn new(sent: bool, detail: String) -> Self {
        Self { sent, late: false, detail }
    }
}

impl Wire {
    /// No connection yet. One that cannot be made within `connect` is given up; without it the timeout of the exchange
    /// decides.
    pub(super) fn new(connect: Option<Duration>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(connect);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Self(http)
    }

    /// Sends `ask` to `address` (`host:port`) and waits for the whole answer, for at most `timeout`.
    pub(super) async fn exchange(&self, address: &str, ask: &Ask, timeout: Duration) -> Result<Answer, Trouble> {
        let whole = async { whole(self.open(address, ask).await?).await };
        let Ok(answer) = tokio::time::timeout(timeout, whole).await else {
            return Err(Trouble { sent: true, late: true, detail: format!("no answer within {timeout:?}") });
        };
        answer
    }

    /// Sends `ask` and waits for the head of the answer, without a limit.
    pub(super) async fn open(&self, address: &str, ask: &Ask) -> Result<Response<Incoming>, Trouble> {
        let mut request = Request::new(Full::new(ask.body.clone()));
        let uri = format!("http://{address}{}", ask.path);
        *request.uri_mut() = uri.parse().map_err(|error| Trouble::new(false, explain(&error)))?;
        *request.method_mut() = ask.method.clone();
        *request.headers_mut() = ask.headers.clone();
        self.0.request(request).await.map_err(|error| Trouble::new(!error.is_connect(), explain(&error)))
    }
}

/// Reads the rest of an answer.
pub(super) async fn whole(response: Response<Incoming>) -> Result<Answer, Trouble> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| Trouble::new(true, format!("the answer broke off: {error}")))?.to_bytes();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
}

/// An error with its causes: hyper says only "client error (Connect)" by itself.
pub(super) fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
