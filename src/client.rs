//! The Rust client: plain HTTP to a node.

use std::time::Duration;

/// A client of one node.
pub struct Client;

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
    /// The address cannot be dialled or the connection broke.
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
    pub fn new(_timeout: Duration) -> Self {
        todo!()
    }
    /// `GET http://address/path`.
    ///
    /// # Errors
    /// [`ClientError`] where nothing answers in time; any HTTP status is an answer.
    pub async fn get(&self, _address: &str, _path: &str) -> Result<Response, ClientError> {
        todo!()
    }
    /// `POST http://address/path` with a JSON body.
    ///
    /// # Errors
    /// [`ClientError`] where nothing answers in time; any HTTP status is an answer.
    pub async fn post(&self, _address: &str, _path: &str, _body: &serde_json::Value) -> Result<Response, ClientError> {
        todo!()
    }
}
