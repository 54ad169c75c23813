//! A watch: every change of a key or of all keys with a prefix, in order, over as many connections as it takes.
//!
//! Why: nodes come and go while a watch stays. Each event's id says where to go on, on any node.
//!
//! Laws: no event is told twice and none is left out, or the watch fails and says why. 15 s of silence mean that the
//! node has lost its leader, so another one is asked. A node that cannot go so far back is passed by for one that can.
//!
//! Not here: the text of the stream ([`super::events`]).

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};

use super::api::path;
use super::events::{Event, EventKind, Parser};
use super::retry::{self, Judged, Kind, NO_ANSWER, NO_NODE};
use super::wire::{self, Ask, Trouble};
use super::{ATTEMPT, Client, Failure, MOST_PAUSE, PAUSE};
use crate::model::Outcome;

/// How long a node that is with its leader is silent at most, three times over.
const SILENCE: Duration = Duration::from_secs(15);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const INDEX: HeaderName = HeaderName::from_static("x-raft-index");
/// The code of a node whose history begins later.
const COMPACTED: &str = "compacted";

/// Whose changes are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Those of one key.
    Key(String),
    /// Those of all keys that begin with this; of every key where it is empty.
    Prefix(String),
}

/// A watch under way.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    scope: Scope,
    /// The index to begin with, while no event has come.
    from: Option<u64>,
    /// The id of the last event.
    last: Option<String>,
    stream: Option<Stream>,
}

#[derive(Debug)]
struct Stream {
    address: String,
    body: Incoming,
    parser: Parser,
}

impl Client {
    /// Begins a watch. It goes on after the event `after`, or begins with index `from`, or else with what comes now: at
    /// the first call of [`Watch::next`], which makes the connection.
    #[must_use]
    pub fn watch(&self, scope: Scope, from: Option<u64>, after: Option<String>) -> Watch {
        Watch { client: self.clone(), scope, from, last: after, stream: None }
    }
}

impl Watch {
    /// The id after which the watch goes on; none before the first event.
    #[must_use]
    pub fn last_id(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// The next event, however long it takes; progress, which comes every few seconds, is one too.
    ///
    /// # Errors
    /// [`Failure`] where no endpoint takes the watch within the client's timeout; where none can go so far back
    /// (`compacted`) or this reader was too slow (`lagged`): then list the keys again, and watch from one behind the
    /// [`super::Page::index`] of the first page. Where `compacted` names a [`Failure::newest_index`], the cluster was made
    /// anew and has not come so far. After any but these two, calling it again goes on.
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
                        self.last = Some(event.id.clone());
                    }
                    self.stream = Some(stream);
                    return Ok(event);
                }
                // The connection is gone, or not worth keeping; the next one goes on where this one was.
                Err(_) => self.client.endpoints(|endpoints| endpoints.failed(&stream.address)),
            }
        }
    }

    async fn connect(&mut self) -> Result<Stream, Failure> {
        let ask = self.ask()?;
        let deadline = Instant::now() + self.client.timeout;
        let mut pause = PAUSE;
        let nobody = || Failure::here("no endpoint", NO_ANSWER, "there is nobody to ask", Outcome::NotApplied);
        loop {
            let mut last = None;
            let mut compacted = None;
            for address in self.client.endpoints(|endpoints| endpoints.order(false)) {
                let failure = match self.open(&address, &ask).await {
                    Ok(stream) => return Ok(stream),
                    Err(Judged { failure, again }) if again || failure.code == COMPACTED => failure,
                    Err(Judged { failure, .. }) => return Err(failure),
                };
                self.client.endpoints(|endpoints| endpoints.failed(&address));
                if failure.code == COMPACTED {
                    compacted = Some(failure);
                } else {
                    last = Some(failure);
                }
            }
            if let Some(failure) = compacted {
                return Err(failure);
            }
            if deadline.saturating_duration_since(Instant::now()) <= pause {
                return Err(last.unwrap_or_else(nobody));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MOST_PAUSE);
        }
    }

    fn ask(&self) -> Result<Ask, Failure> {
        let mut query = vec![match &self.scope {
            Scope::Key(key) => ("key", key.clone()),
            Scope::Prefix(prefix) => ("prefix", prefix.clone()),
        }];
        if let (None, Some(from)) = (&self.last, self.from) {
            query.push(("from", from.to_string()));
        }
        let mut ask = Ask::new(Method::GET, path("/watch", &query));
        if let Some(last) = &self.last {
            let value = HeaderValue::from_str(last).map_err(|_| {
                let detail = format!("{last:?} is no id of an event");
                Failure::here("the request", "bad_request", detail, Outcome::NotApplied)
            })?;
            ask.headers.insert(LAST_EVENT_ID, value);
        }
        Ok(ask)
    }

    async fn open(&mut self, address: &str, ask: &Ask) -> Result<Stream, Judged> {
        let late = || Trouble { sent: true, late: true, detail: format!("no answer within {ATTEMPT:?}") };
        let judged = |trouble| retry::unanswered(Kind::Local, address, trouble);
        let opened = tokio::time::timeout(ATTEMPT, self.client.wire.open(address, ask)).await;
        let response = opened.unwrap_or_else(|_| Err(late())).map_err(judged)?;
        if response.status().as_u16() != 200 {
            let answer = tokio::time::timeout(ATTEMPT, wire::whole(response)).await;
            let answer = answer.unwrap_or_else(|_| Err(late())).map_err(judged)?;
            return Err(retry::refused(Kind::Local, address, &answer));
        }
        self.client.learn(address, response.headers());
        if self.last.is_none() && self.from.is_none() {
            // From now on: the next connection must begin there too, or it would leave out what comes between.
            let now = response.headers().get(INDEX).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
            let Some(now) = now else {
                let detail = "it answers a watch without its index, so it is no huskv node";
                let failure = Failure::here(address, NO_NODE, detail, Outcome::NotApplied);
                return Err(Judged { failure, again: true });
            };
            self.from = Some(now.saturating_add(1));
        }
        Ok(Stream { address: address.to_owned(), body: response.into_body(), parser: Parser::default() })
    }
}

impl Stream {
    /// The next event; an error, in words, where the connection is of no use any more.
    async fn next(&mut self) -> Result<Event, String> {
        loop {
            if let Some(event) = self.parser.next()? {
                return Ok(event);
            }
            let frame = tokio::time::timeout(SILENCE, self.body.frame()).await;
            match frame.map_err(|_| format!("silent for {SILENCE:?}"))? {
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        self.parser.push(&piece)?;
                    }
                }
                Some(Err(error)) => return Err(wire::explain(&error)),
                None => return Err("the stream ended".to_owned()),
            }
        }
    }
}

fn lagged(address: &str) -> Failure {
    let detail = "this watch was read too slowly and lost its place, so what it left out must be listed";
    Failure::here(address, "lagged", detail, Outcome::NotApplied)
}
