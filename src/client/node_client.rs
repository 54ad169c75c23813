//! Client of a single node: HTTP and JSON to the address that the caller names.
//!
//! Why: forming a cluster, `huskv status` and the demo are about one particular node.
//!
//! Invariants: a request is sent once, [`NodeClient::stats`] at most twice, and again after a 429, when the time that it names has
//! passed. Its timeout covers everything, waits and the whole response included; a wait beyond it leaves the 429 as the response.
//!
//! See also: [`super::Client`], which chooses among endpoints and retries.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::Value;

use super::access::Access;
use super::cluster_client::PAUSE;
use super::http_client::{ApiRequest, ApiResponse, ExchangeError, HttpClient};
use super::node_readiness::Readiness;
use super::retry;

/// A client of single nodes; cheap to clone, and clones share their connections.
#[derive(Debug, Clone)]
pub struct NodeClient {
    http: HttpClient,
    timeout: Duration,
}

/// A response with a JSON body.
#[derive(Debug, Clone)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The body as JSON; null where it was empty.
    pub body: serde_json::Value,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum NodeClientError {
    /// The address cannot be dialled, the connection broke, or what answers there does not speak JSON.
    #[error("{address}: {detail}")]
    Unreachable {
        /// Which address.
        address: String,
        /// The cause.
        detail: String,
    },
    /// No response in time.
    #[error("{address}: no answer within {timeout:?}")]
    Timeout {
        /// Which address.
        address: String,
        /// The timeout of the request.
        timeout: Duration,
    },
    /// The response to a request for stats has none.
    #[error("{address}: answers {status}: {detail}")]
    NoStats {
        /// Which address.
        address: String,
        /// The HTTP status.
        status: u16,
        /// The reason that the node gives.
        detail: String,
    },
}

impl NodeClient {
    /// A client with plain HTTP, whose requests take at most `timeout`.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self::with_access(timeout, Access::default())
    }

    /// The same over TLS, with a token, or both.
    #[must_use]
    pub fn with_access(timeout: Duration, access: Access) -> Self {
        Self { http: HttpClient::new(access, None), timeout }
    }

    /// `GET http://address/path`.
    ///
    /// # Errors
    /// [`NodeClientError`] where nothing responds in time; a response of any HTTP status is `Ok`.
    pub async fn get(&self, address: &str, path: &str) -> Result<Response, NodeClientError> {
        self.send(address, ApiRequest::new(Method::GET, path)).await
    }

    /// `POST http://address/path` with a JSON body.
    ///
    /// # Errors
    /// [`NodeClientError`] where nothing responds in time; a response of any HTTP status is `Ok`. A change that was asked for may
    /// have been made all the same.
    pub async fn post(&self, address: &str, path: &str, body: &Value) -> Result<Response, NodeClientError> {
        let mut request = ApiRequest::new(Method::POST, path).body(body.to_string());
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send(address, request).await
    }

    /// `DELETE http://address/path`.
    ///
    /// # Errors
    /// As [`NodeClient::post`].
    pub async fn delete(&self, address: &str, path: &str) -> Result<Response, NodeClientError> {
        self.send(address, ApiRequest::new(Method::DELETE, path)).await
    }

    /// The `data` of `GET http://address/raft/stats`, to be read as [`super::NodeStats`]. A node that is at one of its limits
    /// is asked a second time.
    ///
    /// # Errors
    /// As [`NodeClient::get`], and [`NodeClientError::NoStats`] where the node refuses or the response is not that of a node.
    pub async fn stats(&self, address: &str) -> Result<Value, NodeClientError> {
        let mut response = self.get(address, "/raft/stats").await?;
        if response.status == 503 && response.body["code"] == "overloaded" {
            tokio::time::sleep(PAUSE).await;
            response = self.get(address, "/raft/stats").await?;
        }
        if response.status == 200 && response.body["data"].is_object() {
            return Ok(response.body["data"].take());
        }
        let detail = response.body["detail"].as_str().unwrap_or("not a response of a huskv node").to_owned();
        Err(NodeClientError::NoStats { address: address.to_owned(), status: response.status, detail })
    }

    /// Whether the node takes requests, and why not, by `GET http://address/readyz`. The first needs no token.
    ///
    /// # Errors
    /// [`NodeClientError`] where nothing responds in time.
    pub async fn readiness(&self, address: &str) -> Result<Readiness, NodeClientError> {
        let answer = self.exchange(address, ApiRequest::new(Method::GET, "/readyz?verbose")).await?;
        Ok(Readiness::parse(answer.status, &answer.body))
    }

    /// Sends a request as it is, and returns the response as soon as its head is there, however long its body goes on. There is no
    /// timeout but the caller's.
    ///
    /// # Errors
    /// [`NodeClientError::Unreachable`].
    pub(crate) async fn forward(
        &self,
        address: &str,
        request: hyper::Request<Bytes>,
    ) -> Result<hyper::Response<Incoming>, NodeClientError> {
        let (head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let request = ApiRequest { method: head.method, path, headers: head.headers, body };
        let unreachable =
            |error: ExchangeError| NodeClientError::Unreachable { address: address.to_owned(), detail: error.detail };
        self.http.open(address, &request).await.map_err(unreachable)
    }

    async fn send(&self, address: &str, request: ApiRequest) -> Result<Response, NodeClientError> {
        let answer = self.exchange(address, request).await?;
        let status = answer.status;
        if answer.body.is_empty() {
            return Ok(Response { status, body: Value::Null });
        }
        let body = serde_json::from_slice(&answer.body).map_err(|error| NodeClientError::Unreachable {
            address: address.to_owned(),
            detail: format!("status {status} without JSON, so it is no huskv node: {error}"),
        })?;
        Ok(Response { status, body })
    }

    async fn exchange(&self, address: &str, request: ApiRequest) -> Result<ApiResponse, NodeClientError> {
        let deadline = Instant::now() + self.timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut is_first = true;
        let answer = loop {
            let answer = self.http.exchange(address, &request, left()).await;
            let wait = match &answer {
                Ok(answer) => retry::wait_after(answer.status, &answer.headers),
                // It was never written to the connection, so it is still sent once.
                Err(error) => (error.refused && is_first).then_some(PAUSE),
            };
            match wait.filter(|wait| *wait < left()) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => break answer,
            }
            is_first = false;
        };
        match answer {
            Ok(answer) => Ok(answer),
            Err(error) if error.timed_out => {
                Err(NodeClientError::Timeout { address: address.to_owned(), timeout: self.timeout })
            }
            Err(error) => Err(NodeClientError::Unreachable { address: address.to_owned(), detail: error.detail }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Serves one request with these bytes; returns the address, and the request that came.
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
    async fn a_response_of_any_status_is_ok() {
        let client = NodeClient::new(Duration::from_secs(30));
        let (address, asked) = answering("HTTP/1.1 503 X\r\nContent-Length: 16\r\n\r\n{\"code\":\"joining\"");
        // A response whose body is broken JSON is an error, whatever its status.
        assert!(matches!(client.get(&address, "/health").await, Err(NodeClientError::Unreachable { .. })));
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
    async fn a_timeout_and_an_unreachable_address_are_different_errors() {
        let client = NodeClient::new(Duration::from_secs(30));
        assert!(matches!(client.get("not an address", "/").await, Err(NodeClientError::Unreachable { .. })));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let refused = client.get(&closed, "/health").await.unwrap_err().to_string();
        assert!(refused.contains("refused"), "the error has its cause: {refused}");
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let short = NodeClient::new(Duration::from_millis(20));
        let silence = short.get(&silent.local_addr().unwrap().to_string(), "/health").await;
        assert!(matches!(silence, Err(NodeClientError::Timeout { .. })));
    }
}
