//! The Rust client: plain HTTP and JSON to a node.
//!
//! Why: forming a cluster, the demo and the tests all talk to nodes as any client does.
//!
//! Laws: a request is sent once. Its timeout covers everything: looking the name up, dialling, sending, and the whole
//! answer. An answer has at most 64 MiB.
//!
//! Not here: which node to ask; the caller names one.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;

/// The most bytes that an answer may have.
const ANSWER_BYTES: usize = 64 << 20;
/// How long an idle connection is kept; shorter than a node keeps it, so that it is not found closed.
const IDLE: Duration = Duration::from_secs(5);

/// A client; cheap to clone, and clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    timeout: Duration,
}

/// What a node answered.
#[derive(Debug, Clone)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The body as JSON; null where it was empty.
    pub body: serde_json::Value,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address cannot be dialled, the connection broke, or what answers there does not speak JSON.
    #[error("{address}: {detail}")]
    Unreachable {
        /// Which address.
        address: String,
        /// What happened.
        detail: String,
    },
    /// No answer in time.
    #[error("{address}: no answer within {timeout:?}")]
    Timeout {
        /// Which address.
        address: String,
        /// How long was waited.
        timeout: Duration,
    },
}

impl Client {
    /// A client whose requests take at most `timeout`.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Self { http, timeout }
    }

    /// `GET http://address/path`.
    ///
    /// # Errors
    /// [`ClientError`] where nothing answers in time; any HTTP status is an answer.
    pub async fn get(&self, address: &str, path: &str) -> Result<Response, ClientError> {
        self.send(Method::GET, address, path, None).await
    }

    /// `POST http://address/path` with a JSON body.
    ///
    /// # Errors
    /// [`ClientError`] where nothing answers in time; any HTTP status is an answer. A change that was asked for may have
    /// been made all the same.
    pub async fn post(&self, address: &str, path: &str, body: &Value) -> Result<Response, ClientError> {
        self.send(Method::POST, address, path, Some(body)).await
    }

    /// `DELETE http://address/path`.
    ///
    /// # Errors
    /// As [`Client::post`].
    pub async fn delete(&self, address: &str, path: &str) -> Result<Response, ClientError> {
        self.send(Method::DELETE, address, path, None).await
    }

    async fn send(
        &self,
        method: Method,
        address: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response, ClientError> {
        let answer = tokio::time::timeout(self.timeout, self.exchange(method, address, path, body)).await;
        match answer {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(detail)) => Err(ClientError::Unreachable { address: address.to_owned(), detail }),
            Err(_) => Err(ClientError::Timeout { address: address.to_owned(), timeout: self.timeout }),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        address: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response, String> {
        let mut request = Request::builder().method(method).uri(format!("http://{address}{path}"));
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| explain(&error))?;
        let response = self.http.request(request).await.map_err(|error| explain(&error))?;
        let status = response.status().as_u16();
        let bytes = Limited::new(response.into_body(), ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| format!("the answer broke off: {error}"))?
            .to_bytes();
        if bytes.is_empty() {
            return Ok(Response { status, body: Value::Null });
        }
        let body = serde_json::from_slice(&bytes)
            .map_err(|error| format!("status {status} without JSON, so it is no huskv node: {error}"))?;
        Ok(Response { status, body })
    }
}

/// An error with its causes: hyper says only "client error (Connect)" by itself.
fn explain(error: &dyn std::error::Error) -> String {
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
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Answers one request with these bytes; the address, and what was asked.
    fn answering(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("localhost:{}", listener.local_addr().unwrap().port());
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 4096];
            let mut length = 0;
            let end = |asked: &[u8]| if asked.starts_with(b"POST") { &b"}"[..] } else { b"\r\n\r\n" };
            while !asked[..length].ends_with(end(&asked[..length])) || length == 0 {
                length += stream.read(&mut asked[length..]).unwrap();
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&asked[..length]).into_owned()
        });
        (address, asked)
    }

    #[tokio::test]
    async fn any_status_is_an_answer() {
        let client = Client::new(Duration::from_secs(30));
        let (address, asked) = answering("HTTP/1.1 503 X\r\nContent-Length: 16\r\n\r\n{\"code\":\"joining\"");
        // A broken body is no answer, whatever its status.
        assert!(matches!(client.get(&address, "/health").await, Err(ClientError::Unreachable { .. })));
        assert!(asked.join().unwrap().starts_with("GET /health HTTP/1.1\r\n"));
        let (address, asked) = answering("HTTP/1.1 404 X\r\nContent-Length: 12\r\n\r\n{\"keys\":[1]}");
        let answer = client.post(&address, "/store", &serde_json::json!({"key": "k"})).await.unwrap();
        assert_eq!((answer.status, answer.body), (404, serde_json::json!({"keys": [1]})));
        let asked = asked.join().unwrap();
        assert!(asked.contains("content-type: application/json") && asked.ends_with("{\"key\":\"k\"}"), "{asked}");
        let (address, asked) = answering("HTTP/1.1 431 X\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.delete(&address, "/store/k").await.unwrap().body, Value::Null);
        assert!(asked.join().unwrap().starts_with("DELETE /store/k HTTP/1.1\r\n"));
    }

    #[tokio::test]
    async fn silence_and_what_is_no_node_are_told_apart() {
        let client = Client::new(Duration::from_secs(30));
        assert!(matches!(client.get("not an address", "/").await, Err(ClientError::Unreachable { .. })));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let refused = client.get(&closed, "/health").await.unwrap_err().to_string();
        assert!(refused.contains("refused"), "the cause is told: {refused}");
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let impatient = Client::new(Duration::from_millis(20));
        let silence = impatient.get(&silent.local_addr().unwrap().to_string(), "/health").await;
        assert!(matches!(silence, Err(ClientError::Timeout { .. })));
    }
}
