//! Watch: every change of a key or of all keys with a prefix, in order, over as many connections as it takes.
//!
//! Why: a watch outlives single nodes. Each event's id is a cursor after which any node can resume it.
//!
//! Invariants: no event is delivered twice and none is skipped, or the watch fails with the reason. After 15 s without
//! an event or a comment the node has lost its leader, and the watch moves to another one. A node whose history is
//! compacted is skipped for one whose history reaches back far enough.
//!
//! See also: [`super::events`] for the parser.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};

use super::api_methods::path;
use super::cluster_client::{ATTEMPT_TIMEOUT, Client, MAX_PAUSE, PAUSE, no_endpoint};
use super::events::{Event, EventKind, Parser};
use super::failure::Failure;
use super::http_client::{self, ApiRequest, ExchangeError};
use super::retry::{self, NO_NODE, RequestKind, RetryDecision};
use crate::model::Outcome;

/// How long a connection may be idle: three times the longest pause between two events of a healthy node.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const INDEX: HeaderName = HeaderName::from_static("x-raft-index");
/// The code of a node whose history begins after the requested index.
const COMPACTED: &str = "compacted";

/// The keys that a watch covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// One key.
    Key(String),
    /// All keys with this prefix; every key where it is empty.
    Prefix(String),
}

/// A running watch.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    scope: Scope,
    /// The index to begin with, until the first event.
    from: Option<u64>,
    /// The id of the last event.
    last_id: Option<String>,
    stream: Option<Stream>,
}

#[derive(Debug)]
struct Stream {
    address: String,
    body: Incoming,
    parser: Parser,
}

impl Client {
    /// Creates a watch. It resumes after the event `after`, or begins with index `from`, or else with the changes from
    /// now on: from the first call of [`Watch::next`], which connects.
    #[must_use]
    pub fn watch(&self, scope: Scope, from: Option<u64>, after: Option<String>) -> Watch {
        Watch { client: self.clone(), scope, from, last_id: after, stream: None }
    }
}

impl Watch {
    /// The id after which the watch resumes; none before the first event.
    #[must_use]
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// Waits for the next event; progress, which comes every few seconds, is one too.
    ///
    /// # Errors
    /// [`Failure`] where no endpoint accepts the watch within the client's timeout, where no node has the history
    /// (`compacted`), or where this watcher was too slow (`lagged`). After the latter two, list the keys again and watch
    /// from the [`super::Page::index`] of the first page plus one. Where `compacted` has a [`Failure::newest_index`], the
    /// cluster was created anew and has not reached the requested index. After any other failure the next call resumes.
    pub async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            let mut stream = match self.stream.take() {
                Some(stream) => stream,
                None => self.connect().await?,
            };
            match stream.next().await {
                Ok(event) if event.kind == EventKind::Lagged => return Err(lagged(&stream.address)),
                Ok(event) => {
                    if !event.id.is_empty() {
                        self.last_id = Some(event.id.clone());
                    }
                    self.stream = Some(stream);
                    return Ok(event);
                }
                // The connection broke or went idle; the next one resumes after `last_id`.
                Err(_) => self.client.endpoints(|endpoints| endpoints.record_failure(&stream.address)),
            }
        }
    }

    async fn connect(&mut self) -> Result<Stream, Failure> {
        let request = self.request()?;
        let deadline = Instant::now() + self.client.timeout;
        let mut pause = PAUSE;
        loop {
            let mut last = None;
            let mut compacted = None;
            let mut lasts = true;
            let mut limited = None;
            for address in self.client.endpoints(|endpoints| endpoints.order(false)) {
                let failure = match self.open(&address, &request).await {
                    Ok(stream) => return Ok(stream),
                    Err(RetryDecision { failure, wait: Some(wait), .. }) => {
                        limited = Some(wait);
                        last = Some(failure);
                        lasts = false;
                        break;
                    }
                    Err(RetryDecision { failure, retry, .. }) if retry || failure.code == COMPACTED => failure,
                    Err(RetryDecision { failure, .. }) => return Err(failure),
                };
                self.client.endpoints(|endpoints| endpoints.record_failure(&address));
                lasts &= retry::lasts(&failure);
                if failure.code == COMPACTED {
                    compacted = Some(failure);
                } else {
                    last = Some(failure);
                }
            }
            if let Some(failure) = compacted {
                return Err(failure);
            }
            let wait = limited.unwrap_or(pause);
            if lasts || deadline.saturating_duration_since(Instant::now()) <= wait {
                return Err(last.unwrap_or_else(no_endpoint));
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    fn request(&self) -> Result<ApiRequest, Failure> {
        let mut query = vec![match &self.scope {
            Scope::Key(key) => ("key", key.clone()),
            Scope::Prefix(prefix) => ("prefix", prefix.clone()),
        }];
        if let (None, Some(from)) = (&self.last_id, self.from) {
            query.push(("from", from.to_string()));
        }
        let mut request = ApiRequest::new(Method::GET, path("/watch", &query));
        if let Some(last) = &self.last_id {
            let value = HeaderValue::from_str(last).map_err(|_| {
                let detail = format!("{last:?} is no id of an event");
                Failure::local("the request", "bad_request", detail, Outcome::NotApplied)
            })?;
            request.headers.insert(LAST_EVENT_ID, value);
        }
        Ok(request)
    }

    async fn open(&mut self, address: &str, request: &ApiRequest) -> Result<Stream, RetryDecision> {
        let timed_out = || ExchangeError::timed_out(ATTEMPT_TIMEOUT);
        let decision = |error| retry::classify_error(RequestKind::Local, address, error);
        let opened = tokio::time::timeout(ATTEMPT_TIMEOUT, self.client.http.open(address, request)).await;
        let response = opened.unwrap_or_else(|_| Err(timed_out())).map_err(decision)?;
        if response.status().as_u16() != 200 {
            let response = tokio::time::timeout(ATTEMPT_TIMEOUT, http_client::read_response(response)).await;
            let response = response.unwrap_or_else(|_| Err(timed_out())).map_err(decision)?;
            return Err(retry::classify_response(RequestKind::Local, address, &response));
        }
        self.client.record_response(address, response.headers());
        if self.last_id.is_none() && self.from.is_none() {
            // A watch from now on: a second connection must begin at the index of the first, or it would skip the events
            // in between. A node at index 41 responds; this watch begins with 42 on whichever node comes next.
            let now = response.headers().get(INDEX).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
            let Some(now) = now else {
                let detail = "it answers a watch without its index, so it is no huskv node";
                let failure = Failure::local(address, NO_NODE, detail, Outcome::NotApplied);
                return Err(RetryDecision { failure, retry: true, wait: None });
            };
            self.from = Some(now.saturating_add(1));
        }
        Ok(Stream { address: address.to_owned(), body: response.into_body(), parser: Parser::default() })
    }
}

impl Stream {
    /// The next event; an error where the connection broke or is idle.
    async fn next(&mut self) -> Result<Event, String> {
        loop {
            if let Some(event) = self.parser.next()? {
                return Ok(event);
            }
            let frame = tokio::time::timeout(IDLE_TIMEOUT, self.body.frame()).await;
            match frame.map_err(|_| format!("silent for {IDLE_TIMEOUT:?}"))? {
                Some(Ok(frame)) => {
                    if let Ok(chunk) = frame.into_data() {
                        self.parser.push(&chunk)?;
                    }
                }
                Some(Err(error)) => return Err(http_client::with_causes(&error)),
                None => return Err("the stream ended".to_owned()),
            }
        }
    }
}

fn lagged(address: &str) -> Failure {
    let detail = "this watch was read too slowly and lost its place, so what it left out must be listed";
    Failure::local(address, "lagged", detail, Outcome::NotApplied)
}
