//! Plain HTTP and JSON to a node that the caller names.
//!
//! Why: forming a cluster, looking at single nodes and the demo are about this node and no other.
//!
//! Laws: a request is sent once. Its timeout covers everything, the whole answer included.
//!
//! Not here: which node to ask ([`super::Client`]).

use std::time::Duration;

use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::Value;

use super::wire::{Ask, Wire};

/// A client of single nodes; cheap to clone, and clones share their connections.
#[derive(Debug, Clone)]
pub struct Direct {
    wire: Wire,
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
pub enum DirectError {
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

impl Direct {
    /// A client whose requests take at most `timeout`.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self { wire: Wire::new(None), timeout }
    }

    /// `GET http://address/path`.
    ///
    /// # Errors
    /// [`DirectError`] where nothing answers in time; any HTTP status is an answer.
    pub async fn get(&self, address: &str, path: &str) -> Result<Response, DirectError> {
        self.send(address, Ask::new(Method::GET, path)).await
    }

    /// `POST http://address/path` with a JSON body.
    ///
    /// # Errors
    /// [`DirectError`] where nothing answers in time; any HTTP status is an answer. A change that was asked for may
    /// have been made all the same.
    pub async fn post(&self, address: &str, path: &str, body: &Value) -> Result<Response, DirectError> {
        let mut ask = Ask::new(Method::POST, path).body(body.to_string());
        ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send(address, ask).await
    }

    /// `DELETE http://address/path`.
    ///
    /// # Errors
    /// As [`Direct::post`].
    pub async fn delete(&self, address: &str, path: &str) -> Result<Response, DirectError> {
        self.send(address, Ask::new(Method::DELETE, path)).await
    }

    async fn send(&self, address: &str, ask: Ask) -> Result<Response, DirectError> {
        let unreachable = |detail| DirectError::Unreachable { address: address.to_owned(), detail };
        let answer = match self.wire.exchange(address, &ask, self.timeout).await {
            Ok(answer) => answer,
            Err(trouble) if trouble.late => {
                return Err(DirectError::Timeout { address: address.to_owned(), timeout: self.timeout });
            }
            Err(trouble) => return Err(unreachable(trouble.detail)),
        };
        let status = answer.status;
        if answer.body.is_empty() {
            return Ok(Response { status, body: Value::Null });
        }
        let body = serde_json::from_slice(&answer.body)
            .map_err(|error| unreachable(format!("status {status} without JSON, so it is no huskv node: {error}")))?;
        Ok(Response { status, body })
    }
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
        let client = Direct::new(Duration::from_secs(30));
        let (address, asked) = answering("HTTP/1.1 503 X\r\nContent-Length: 16\r\n\r\n{\"code\":\"joining\"");
        // A broken body is no answer, whatever its status.
        assert!(matches!(client.get(&address, "/health").await, Err(DirectError::Unreachable { .. })));
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
        let client = Direct::new(Duration::from_secs(30));
        assert!(matches!(client.get("not an address", "/").await, Err(DirectError::Unreachable { .. })));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let refused = client.get(&closed, "/health").await.unwrap_err().to_string();
        assert!(refused.contains("refused"), "the cause is told: {refused}");
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let impatient = Direct::new(Duration::from_millis(20));
        let silence = impatient.get(&silent.local_addr().unwrap().to_string(), "/health").await;
        assert!(matches!(silence, Err(DirectError::Timeout { .. })));
    }
}
