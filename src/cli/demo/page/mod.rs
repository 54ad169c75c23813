//! The page of the demo: that of a node, with buttons that cause faults, and a tour.
//!
//! Why: a page that a dead node has served cannot show what the others do. So the demo serves it at an address of its own, forwards its
//! requests to a node that runs, and adds `/demo/nodes` and `POST /demo/ACTION/NODE`.
//!
//! Invariants: it listens on the loopback address alone. A request of another site's page, or under another host name, is refused, and an
//! action needs the header `Huskv-Demo`, which a page elsewhere cannot send unasked. A token in a request goes to the node as it came; the
//! admin's own is never added. In a secure demo an action needs the admin's.
//!
//! See also: `faults` for the actions, `crate::http::ui` for the page, `demo.js` for what is added to it.

mod forwarding;
mod guard;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::faults::{Action, Command, NodeState, Refusal};
use crate::client::{NodeClient, Token};

/// The header of all responses, by which the page knows that it is that of a demo, and of requests for an action.
const DEMO: HeaderName = HeaderName::from_static("huskv-demo");
/// The script that is added to the page.
const SCRIPT: &[u8] = include_bytes!("demo.js");
/// The most connections at a time; a browser has six.
const MAX_CONNECTIONS: usize = 256;
/// How long a connection may take to send a head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The wait after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Body = Either<Full<Bytes>, Incoming>;

/// What the page needs of the demo.
pub(super) struct PageServer {
    /// Its port.
    pub(super) port: u16,
    /// The nodes as they are.
    pub(super) nodes: watch::Receiver<Vec<NodeState>>,
    /// Where actions go.
    pub(super) commands: mpsc::Sender<Command>,
    /// The client of the nodes, which sends no token of its own.
    pub(super) client: NodeClient,
    /// The token that an action needs, in a secure demo.
    pub(super) admin: Option<Token>,
}

impl PageServer {
    /// Serves connections for as long as the demo runs.
    pub(super) async fn serve(self, listener: TcpListener) {
        let (server, slots) = (Arc::new(self), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            // One too many is closed at once: a browser says so, where it would wait for streams that do not end.
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                let _slot = slot;
                let answer = service_fn(|request| {
                    let server = Arc::clone(&server);
                    async move { Ok::<_, Infallible>(server.answer(request).await) }
                });
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
                // A connection that breaks is the browser's business.
                builder.serve_connection(TokioIo::new(stream), answer).await.ok();
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let mut response = match guard::check(request.headers(), self.port) {
            Err(detail) => problem(StatusCode::FORBIDDEN, "cross_origin", &detail),
            // A proxy's form, or that of `OPTIONS *`: there is nothing here but this origin.
            Ok(()) if request.uri().authority().is_some() || !request.uri().path().starts_with('/') => {
                problem(StatusCode::BAD_REQUEST, "bad_request", "a request names a path, which begins with /")
            }
            Ok(()) => match request.uri().path() {
                "/ui/demo.js" if !is_get(request.method()) => not_allowed("GET"),
                "/ui/demo.js" => script(),
                path if path == "/demo" || path.starts_with("/demo/") => self.demo(&request).await,
                _ => self.forward(request).await,
            },
        };
        response.headers_mut().insert(DEMO, HeaderValue::from_static("1"));
        response
    }

    async fn demo(&self, request: &Request<Incoming>) -> Response<Body> {
        let parts: Vec<&str> = request.uri().path().split('/').skip(2).collect();
        match parts[..] {
            ["nodes"] if is_get(request.method()) => self.nodes(),
            ["nodes"] => not_allowed("GET"),
            [action, node] => match action.parse() {
                Ok(_) if request.method() != Method::POST => not_allowed("POST"),
                Ok(action) => self.act(request, node.to_owned(), action).await,
                Err(()) => no_route(),
            },
            _ => no_route(),
        }
    }

    fn nodes(&self) -> Response<Body> {
        json(StatusCode::OK, &json!({ "data": { "nodes": *self.nodes.borrow() } }))
    }

    async fn act(&self, request: &Request<Incoming>, node: String, action: Action) -> Response<Body> {
        if !request.headers().contains_key(DEMO) {
            let detail = "an action needs the header Huskv-Demo: 1, which no page of another site can send";
            return problem(StatusCode::FORBIDDEN, "cross_origin", detail);
        }
        if self.admin.as_ref().is_some_and(|admin| !admin.is_sent_in(request.headers())) {
            let detail = "this demo is secure: an action needs the token of its admin";
            return problem(StatusCode::UNAUTHORIZED, "unauthorized", detail);
        }
        let (answer, done) = oneshot::channel();
        let sent = self.commands.send(Command { node, action, answer }).await;
        match (sent, done.await) {
            (Ok(()), Ok(Ok(()))) => self.nodes(),
            (_, Ok(Err(refusal))) => refused(&refusal),
            _ => problem(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the demo is stopping"),
        }
    }
}

fn is_get(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn script() -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from_static(SCRIPT))));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/javascript; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'"));
    response
}

fn refused(refusal: &Refusal) -> Response<Body> {
    let (status, code, detail) = match refusal {
        Refusal::Unknown(detail) => (StatusCode::NOT_FOUND, "not_found", detail),
        Refusal::Conflict(detail) => (StatusCode::CONFLICT, "conflict", detail),
        Refusal::Failed(detail) => (StatusCode::INTERNAL_SERVER_ERROR, "internal", detail),
    };
    problem(status, code, detail)
}

fn no_route() -> Response<Body> {
    problem(StatusCode::NOT_FOUND, "no_route", "the demo has /demo/nodes and /demo/{kill,pause,cut,heal}/NODE")
}

fn not_allowed(method: &'static str) -> Response<Body> {
    let mut response =
        problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &format!("it takes {method} only"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(method));
    response
}

/// A refusal in the form of those of a node (RFC 9457).
fn problem(status: StatusCode, code: &str, detail: &str) -> Response<Body> {
    let title = status.canonical_reason().unwrap_or_default();
    let body = json!({ "title": title, "status": status.as_u16(), "code": code, "detail": detail });
    let mut response = json(status, &body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

fn json(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(format!("{body}\n")))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
