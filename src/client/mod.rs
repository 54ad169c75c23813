//! The Rust client of a cluster: endpoints, the leader first, repetitions that cannot do a write twice, and watches.
//!
//! Why: every program that uses a cluster must find a node that answers and must decide after each failure whether to
//! try again. Here it is decided once, by the `outcome` that the nodes tell.
//!
//! ```no_run
//! # async fn example() -> Result<(), huskv::client::Failure> {
//! use huskv::client::{Client, Condition, Read, Write};
//!
//! let client = Client::new(["localhost:2221", "localhost:2222", "localhost:2223"], Client::TIMEOUT);
//! let version = client.put("lock", "me", &Write { condition: Condition::Absent, ..Write::default() }).await?;
//! let value = client.get("lock", &Read::default()).await?;
//! # Ok(()) }
//! ```
//!
//! Laws: a write whose outcome is unknown is sent again only with an idempotency key (`retry`). A call takes at most
//! the client's timeout and half a second. No address is asked that the caller did not give (`endpoints`).
//!
//! Not here: the routes ([`Client`]'s methods, in `api`), and single nodes ([`Direct`]).

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::{HeaderMap, HeaderName};
use serde_json::Value;

mod api;
mod direct;
mod endpoints;
mod events;
mod retry;
mod watch;
mod wire;

pub use api::{Change, Condition, Page, Range, Read, Stored, Write};
pub use direct::{Direct, DirectError, Response};
pub use events::{Event, EventKind};
pub use watch::{Scope, Watch};

pub use crate::model::{Leader, Outcome};

use endpoints::Endpoints;
use retry::{Judged, Kind, NO_ANSWER};
use wire::{Answer, Ask, Wire};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(2);
/// How long one endpoint may take for what another could answer as well.
const ATTEMPT: Duration = Duration::from_secs(3);
/// How much longer than its node an attempt waits, so that the node's own word on the outcome arrives.
const GRACE: Duration = Duration::from_millis(500);
/// The pause after all endpoints were asked in vain: the first, and the longest.
const PAUSE: Duration = Duration::from_millis(50);
const MOST_PAUSE: Duration = Duration::from_secs(1);
/// The longest time that a node takes as `timeout`.
const NODE_TIMEOUT: Duration = Duration::from_secs(60);

const NODE: HeaderName = HeaderName::from_static("x-huskv-node");
const LEADER: HeaderName = HeaderName::from_static("x-huskv-leader");

/// A client of a cluster; cheap to clone, and clones share connections and what they have learned.
#[derive(Debug, Clone)]
pub struct Client {
    wire: Wire,
    timeout: Duration,
    endpoints: Arc<Mutex<Endpoints>>,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{endpoint}: {detail} ({code})")]
pub struct Failure {
    /// The endpoint that was asked last.
    pub endpoint: String,
    /// The HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// The stable word: that of the problem, or `no_answer` (nothing answers, or not in time), `no_node` (what answers
    /// is no huskv node), `bad_request` (it cannot be sent) or `lagged` (a watch lost its place).
    pub code: String,
    /// What happened, for a person.
    pub detail: String,
    /// Whether a change may have been made all the same, by any of the attempts; not applied for a read.
    pub outcome: Outcome,
    /// The version that the key has, 0 for no such key, where a condition was not true.
    pub version: Option<u64>,
    /// The index from which on the node can tell changes, where a watch began before it.
    pub oldest_index: Option<u64>,
    /// The last index that the cluster has committed, where a watch was to go on after a later one: the cluster was made
    /// anew since.
    pub newest_index: Option<NonZeroU64>,
}

impl Failure {
    /// A failure that this side tells.
    fn here(endpoint: &str, code: &str, detail: impl Into<String>, outcome: Outcome) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            status: None,
            code: code.to_owned(),
            detail: detail.into(),
            outcome,
            version: None,
            oldest_index: None,
            newest_index: None,
        }
    }
}

impl Client {
    /// A timeout that outlasts an election.
    pub const TIMEOUT: Duration = Duration::from_secs(10);

    /// A client of the cluster whose nodes have these HTTP addresses (`host:port`). A call takes at most `timeout`,
    /// over all its attempts.
    pub fn new<S: Into<String>>(endpoints: impl IntoIterator<Item = S>, timeout: Duration) -> Self {
        let given = endpoints.into_iter().map(Into::into).collect();
        Self { wire: Wire::new(Some(CONNECT)), timeout, endpoints: Arc::new(Mutex::new(Endpoints::new(given))) }
    }

    fn endpoints<T>(&self, with: impl FnOnce(&mut Endpoints) -> T) -> T {
        // What is in there are hints, which a panic elsewhere leaves whole.
        with(&mut self.endpoints.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends `ask` until one endpoint answers for good, or the timeout is over.
    async fn send(&self, kind: Kind, ask: &Ask) -> Result<Answer, Failure> {
        let deadline = Instant::now() + self.timeout;
        if kind != Kind::Local {
            self.find_leader().await;
        }
        let mut pause = PAUSE;
        let mut last = None;
        let mut uncertain = false;
        loop {
            let order = self.endpoints(|endpoints| endpoints.order(kind != Kind::Local));
            let others = order.len() > 1;
            for address in order {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                let limit = if others && kind.is_repeatable() { left.min(ATTEMPT) } else { left };
                let Judged { mut failure, again } = match self.attempt(kind, &address, ask, limit).await {
                    Ok(answer) => return Ok(answer),
                    Err(judged) => *judged,
                };
                if !again {
                    return Err(failure);
                }
                // A later attempt that was refused tells nothing of an earlier one that may have been done.
                uncertain |= failure.outcome == Outcome::Unknown;
                failure.outcome = if uncertain { Outcome::Unknown } else { failure.outcome };
                last = Some(failure);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left <= pause {
                return Err(last.unwrap_or_else(|| {
                    Failure::here("no endpoint", NO_ANSWER, "there is nobody to ask", Outcome::NotApplied)
                }));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MOST_PAUSE);
        }
    }

    /// Asks one endpoint; what is learned from how it goes is kept.
    async fn attempt(&self, kind: Kind, address: &str, ask: &Ask, limit: Duration) -> Result<Answer, Box<Judged>> {
        let mut ask = ask.clone();
        let mark = if ask.path.contains('?') { '&' } else { '?' };
        let ms = limit.min(NODE_TIMEOUT).as_millis().max(1);
        ask.path = format!("{}{mark}timeout={ms}ms", ask.path);
        let judged = match self.wire.exchange(address, &ask, limit + GRACE).await {
            Ok(answer) if (200..400).contains(&answer.status) => {
                self.learn(address, &answer.headers);
                return Ok(answer);
            }
            Ok(answer) => {
                let judged = retry::refused(kind, address, &answer);
                if !judged.again {
                    self.learn(address, &answer.headers);
                }
                judged
            }
            Err(trouble) => retry::unanswered(kind, address, trouble),
        };
        if judged.again || judged.failure.status.is_none() {
            self.endpoints(|endpoints| endpoints.failed(address));
        }
        Err(Box::new(judged))
    }

    fn learn(&self, address: &str, headers: &HeaderMap) {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        self.endpoints(|endpoints| endpoints.answered(address, text(NODE), text(LEADER)));
    }

    /// Where a new leader was told by name, asks the endpoints that have no name yet for theirs.
    async fn find_leader(&self) {
        let strangers = self.endpoints(Endpoints::unnamed);
        let ask = &Ask::new(hyper::Method::GET, "/health");
        let names = strangers.into_iter().map(|address| async move {
            let answer = self.wire.exchange(&address, ask, GRACE).await.ok()?;
            let health: Value = serde_json::from_slice(&answer.body).ok()?;
            Some((address, health["node_id"].as_str()?.to_owned()))
        });
        for (address, node) in futures_util::future::join_all(names).await.into_iter().flatten() {
            self.endpoints(|endpoints| endpoints.name(address, node));
        }
    }
}

#[cfg(test)]
mod tests;
