//! Cluster client: sends a request to one endpoint after the other until one responds for good.
//!
//! Invariants: the timeout of a call bounds all its attempts together. After a 429 no node is asked before the time that it names;
//! where that is beyond the timeout, the call fails at once. An `unknown` outcome of one attempt is not
//! overwritten by a later attempt that was refused.
//!
//! See also: `endpoints` for the order, `retry` for the rule.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::{HeaderMap, HeaderName};
use serde_json::Value;

use super::access::Access;
use super::endpoints::Endpoints;
use super::failure::Failure;
use super::http_client::{ApiRequest, ApiResponse, HttpClient};
use super::retry::{self, NO_ANSWER, RequestKind, RetryDecision};
use crate::model::Outcome;

/// The timeout of a dial.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The timeout of one attempt where another endpoint could respond as well.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// How much longer than its node an attempt waits, so that the node's own `outcome` arrives.
const GRACE: Duration = Duration::from_millis(500);
/// The backoff after a round over all endpoints: the first pause, doubled up to [`MAX_PAUSE`].
pub(super) const PAUSE: Duration = Duration::from_millis(50);
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(1);
/// The maximum that a node accepts as `timeout`.
const MAX_NODE_TIMEOUT: Duration = Duration::from_secs(60);

const NODE: HeaderName = HeaderName::from_static("x-huskv-node");
const LEADER: HeaderName = HeaderName::from_static("x-huskv-leader");

/// A client of a cluster; cheap to clone, and clones share connections and the state of the endpoints.
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) http: HttpClient,
    pub(super) timeout: Duration,
    endpoints: Arc<Mutex<Endpoints>>,
}

impl Client {
    /// A timeout that outlasts an election.
    pub const TIMEOUT: Duration = Duration::from_secs(10);

    /// Creates a client of the cluster whose nodes have these HTTP addresses (`host:port`), with plain HTTP. A call takes
    /// at most `timeout`, over all its attempts.
    pub fn new<S: Into<String>>(endpoints: impl IntoIterator<Item = S>, timeout: Duration) -> Self {
        Self::with_access(endpoints, timeout, Access::default())
    }

    /// Creates a client that reaches its endpoints with `access`: over TLS, with a token, or both. With TLS the certificate
    /// of a node must name the host of its endpoint.
    pub fn with_access<S: Into<String>>(
        endpoints: impl IntoIterator<Item = S>,
        timeout: Duration,
        access: Access,
    ) -> Self {
        let given = endpoints.into_iter().map(Into::into).collect();
        Self {
            http: HttpClient::new(access, Some(CONNECT_TIMEOUT)),
            timeout,
            endpoints: Arc::new(Mutex::new(Endpoints::new(given))),
        }
    }

    pub(super) fn endpoints<T>(&self, with: impl FnOnce(&mut Endpoints) -> T) -> T {
        // The endpoints' state is hints, which are valid after a panic too.
        with(&mut self.endpoints.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends `request` until one endpoint responds for good, or the timeout passes.
    pub(super) async fn send(&self, kind: RequestKind, request: &ApiRequest) -> Result<ApiResponse, Failure> {
        let deadline = Instant::now() + self.timeout;
        if kind != RequestKind::Local {
            self.find_leader().await;
        }
        let mut pause = PAUSE;
        let mut last = None;
        let mut maybe_applied = false;
        loop {
            let order = self.endpoints(|endpoints| endpoints.order(kind != RequestKind::Local));
            let others = order.len() > 1;
            let mut lasts = true;
            let mut limited = None;
            for address in order {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                // A plain write gets all the time that is left: after a timeout it could not be sent again anyway.
                let limit = if others && kind.is_idempotent() { left.min(ATTEMPT_TIMEOUT) } else { left };
                let RetryDecision { mut failure, retry, wait } =
                    match self.attempt(kind, &address, request, limit).await {
                        Ok(response) => return Ok(response),
                        Err(decision) => *decision,
                    };
                if !retry {
                    return Err(failure);
                }
                // Attempt 1 times out (unknown), attempt 2 gets `no_leader` (not applied): the call is still unknown.
                lasts &= retry::lasts(&failure);
                maybe_applied |= failure.outcome == Outcome::Unknown;
                failure.outcome = if maybe_applied { Outcome::Unknown } else { failure.outcome };
                last = Some(failure);
                limited = wait;
                if limited.is_some() {
                    break;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if lasts || left <= limited.unwrap_or(pause) {
                return Err(last.unwrap_or_else(no_endpoint));
            }
            tokio::time::sleep(limited.unwrap_or(pause)).await;
            if limited.is_none() {
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
    }

    /// Sends `request` to one endpoint and records the response or the failure.
    async fn attempt(
        &self,
        kind: RequestKind,
        address: &str,
        request: &ApiRequest,
        limit: Duration,
    ) -> Result<ApiResponse, Box<RetryDecision>> {
        let mut request = request.clone();
        // The node gives up with its own `outcome` before the attempt does, so the client learns whether it applied.
        let mark = if request.path.contains('?') { '&' } else { '?' };
        let ms = limit.min(MAX_NODE_TIMEOUT).as_millis().max(1);
        request.path = format!("{}{mark}timeout={ms}ms", request.path);
        let decision = match self.http.exchange(address, &request, limit + GRACE).await {
            Ok(response) if (200..300).contains(&response.status) => {
                self.record_response(address, &response.headers);
                return Ok(response);
            }
            Ok(response) => {
                let decision = retry::classify_response(kind, address, &response);
                if !decision.retry || decision.wait.is_some() {
                    self.record_response(address, &response.headers);
                }
                decision
            }
            Err(error) => retry::classify_error(kind, address, error),
        };
        if (decision.retry && decision.wait.is_none()) || decision.failure.status.is_none() {
            self.endpoints(|endpoints| endpoints.record_failure(address));
        }
        Err(Box::new(decision))
    }

    /// Records the names of the node and of the leader out of the headers of a response.
    pub(super) fn record_response(&self, address: &str, headers: &HeaderMap) {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        self.endpoints(|endpoints| endpoints.record_response(address, text(NODE), text(LEADER)));
    }

    /// Where the leader is known by name only, asks the endpoints without a known name for theirs.
    async fn find_leader(&self) {
        let candidates = self.endpoints(Endpoints::leader_candidates);
        let request = &ApiRequest::new(hyper::Method::GET, "/health");
        let names = candidates.into_iter().map(|address| async move {
            let response = self.http.exchange(&address, request, GRACE).await.ok()?;
            let health: Value = serde_json::from_slice(&response.body).ok()?;
            Some((address, health["node_id"].as_str()?.to_owned()))
        });
        for (address, node) in futures_util::future::join_all(names).await.into_iter().flatten() {
            self.endpoints(|endpoints| endpoints.set_name(address, node));
        }
    }
}

/// The failure of a client that was given no endpoint.
pub(super) fn no_endpoint() -> Failure {
    Failure::local("no endpoint", NO_ANSWER, "no endpoint was given", Outcome::NotApplied)
}
