//! The audit file: one JSON line for each write, membership change, denial and reload that this node was asked for.
//!
//! Why: an operator has to say afterwards which client changed what, and which one tried to.
//!
//! Invariants: a line is written when the answer is known, or when the request ends without one, and a request has one line. It has
//! names, keys and numbers, and never a value or a secret. Texts of clients are bounded, and characters that could forge a line or steer a
//! terminal are escaped. Denials beyond [`MAX_DENIALS`] a second are counted alone. Without `audit.file` nothing is recorded. No request waits for the disk ([`LineFile`]); denials, which a
//! client can cause without a right, leave half of the queue to the others.
//!
//! ```text
//!   dispatch: Entry::begin --Trail, with the request--> check_host: client --> RequestContext --> propose, membership: keys, names, index
//!       `---- Entry::finish(response), or its drop: a line
//! ```
//!
//! See also: who asks ([`crate::http::request::caller`]), the switch to another file (`node::reload`).

mod subject;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::json;
use warp::http::request::Parts;
use warp::http::{Method, StatusCode, Uri};
use warp::reply::Response;

use subject::{Event, Subject, event, route, shortened};

use super::clients::RequestClient;
use super::request::idempotency::IDEMPOTENCY_KEY;
use super::response::success;
use crate::model::Command;
use crate::model::validate;
use crate::telemetry::logging::{LineFile, OpenedFile, Room, forges};

/// The most denials written in a second: a client without any right can cause them as fast as it likes, and would fill the disk.
const MAX_DENIALS: u32 = 50;

/// How long a switch to another file waits for the lines of the old one; what is not written then goes to the new one.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

/// The audit file of a node; clones share it.
#[derive(Clone)]
pub struct Audit {
    lines: LineFile,
    node: Arc<str>,
    /// The denials that may still be written in the present second, and which that is.
    denials: Arc<Mutex<(u32, u64)>>,
    started: Instant,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("node", &self.node).finish_non_exhaustive()
    }
}

/// What a request's handler adds to its line; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Trail(Arc<Mutex<Found>>);

#[derive(Debug, Default)]
struct Found {
    /// Whether a route has the request.
    is_routed: bool,
    /// The address of its client, where that was found out.
    address: Option<IpAddr>,
    /// The denial that was answered in another form, as an event of a stream.
    denied: Option<StatusCode>,
    token: Option<String>,
    subject: Subject,
    index: Option<u64>,
}

/// A line, in the order of its members.
#[derive(Serialize)]
struct Line<'a> {
    at: String,
    node: &'a str,
    event: &'a str,
    token: Option<&'a str>,
    address: Option<IpAddr>,
    method: &'a str,
    route: Option<&'a str>,
    #[serde(flatten)]
    subject: &'a Subject,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    /// None where the request has ended without an answer, as at the end of the process.
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    ms: u64,
}

/// The line of a request under way. Dropped without an answer it is written without a status.
pub(crate) struct Entry {
    audit: Audit,
    trail: Trail,
    at: SystemTime,
    since: Instant,
    method: Method,
    uri: Uri,
    address: IpAddr,
    idempotency_key: Option<String>,
    is_written: bool,
}

impl Audit {
    /// Returns that of the node with this name, without a file.
    #[must_use]
    pub fn new(node: &str, log: slog::Logger) -> Self {
        let name = node.to_owned();
        // The lines without room are of no request, so this one has fewer members.
        let missing = move |lines| {
            json!({ "at": time(SystemTime::now()), "node": &name, "event": "missing", "lines": lines }).to_string()
        };
        Self { lines: LineFile::new(log, missing), node: node.into(), denials: Arc::default(), started: Instant::now() }
    }

    /// The file, to be flushed at the end of the process.
    #[must_use]
    pub fn lines(&self) -> LineFile {
        self.lines.clone()
    }

    /// Uses this file, or none, from now on.
    ///
    /// # Errors
    /// As [`LineFile::switch`].
    pub fn switch(&self, file: Option<OpenedFile>) -> std::io::Result<()> {
        self.lines.switch(file)
    }

    /// Opens the file in use again, which may have been moved away.
    ///
    /// # Errors
    /// As [`LineFile::reopen`].
    pub fn reopen(&self) -> std::io::Result<()> {
        self.lines.reopen()
    }

    /// Records that the file ends here, and which one is used `next`, and waits shortly until it is written: a record that is switched off
    /// shows when. It blocks.
    pub fn close(&self, next: &str) {
        if !self.lines.has_file() {
            return;
        }
        let next = Some(next).filter(|path| !path.is_empty());
        let line = json!({ "at": time(SystemTime::now()), "node": &*self.node, "event": "closed", "next": next });
        self.lines.push(escaped(line.to_string()), Room::All);
        self.lines.flush(CLOSE_LIMIT);
    }

    /// Records a reload by a signal, which no client has asked for.
    pub fn reloaded_by_signal(&self, succeeded: bool, took: Duration) {
        let status = if succeeded { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
        self.write(&Line {
            at: time(SystemTime::now()),
            node: &self.node,
            event: Event::Reload.as_str(),
            token: None,
            address: None,
            method: "SIGHUP",
            route: None,
            subject: &Subject::default(),
            index: None,
            status: Some(status.as_u16()),
            idempotency_key: None,
            ms: ms(took),
        });
    }

    /// Whether one more denial is written in this second.
    fn takes_denial(&self) -> bool {
        let second = self.started.elapsed().as_secs();
        let mut denials = self.denials.lock().unwrap_or_else(PoisonError::into_inner);
        if denials.1 != second {
            *denials = (0, second);
        }
        denials.0 += 1;
        denials.0 <= MAX_DENIALS
    }

    fn write(&self, line: &Line<'_>) {
        let is_denial = line.event == Event::Denial.as_str();
        if is_denial && !self.takes_denial() {
            return self.lines.leave_out();
        }
        let room = if is_denial { Room::Half } else { Room::All };
        let text = serde_json::to_string(line).expect("texts and numbers always have a JSON form");
        self.lines.push(escaped(text), room);
    }
}

impl Entry {
    /// Begins the line of a request on a connection from `address`; None where there is no audit file.
    pub(crate) fn begin(audit: &Audit, parts: &Parts, address: IpAddr) -> Option<Self> {
        if !audit.lines.has_file() {
            return None;
        }
        let key = parts.headers.get(&IDEMPOTENCY_KEY).and_then(|key| key.to_str().ok());
        Some(Self {
            audit: audit.clone(),
            trail: Trail(Arc::default()),
            at: SystemTime::now(),
            since: Instant::now(),
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            address,
            idempotency_key: key.filter(|key| validate::is_idempotency_key(key.as_bytes())).map(str::to_owned),
            is_written: false,
        })
    }

    /// What the handler of the request adds.
    pub(crate) fn trail(&self) -> Trail {
        self.trail.clone()
    }

    /// Writes the line of a request with this response, where it has one.
    pub(crate) fn finish(mut self, response: &Response) {
        let index = success::raft_index(response);
        self.write(Some(response.status()), index);
    }

    fn write(&mut self, status: Option<StatusCode>, index: Option<u64>) {
        self.is_written = true;
        let status = self.trail.found().denied.or(status);
        let (template, rest) = route(self.uri.path()).unzip();
        let mut found = self.trail.found();
        let is_denial =
            |status| [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS].contains(&status);
        // What never came to a route has changed nothing, and its client is not known.
        let of_route = || template.filter(|_| found.is_routed).and_then(|template| event(&self.method, template));
        let Some(event) = (if status.is_some_and(is_denial) { Some(Event::Denial) } else { of_route() }) else {
            return;
        };
        if found.subject.is_empty() {
            found.subject = Subject::of_uri(template, rest.unwrap_or_default(), self.uri.query().unwrap_or_default());
        }
        self.audit.write(&Line {
            at: time(self.at),
            node: &self.audit.node,
            event: event.as_str(),
            token: found.token.as_deref(),
            // A dual-stack listener makes ::ffff:10.0.0.1 of 10.0.0.1.
            address: Some(found.address.unwrap_or(self.address).to_canonical()),
            method: &shortened(self.method.as_str()),
            route: template,
            subject: &found.subject,
            index: index.or(found.index).filter(|_| event != Event::Denial),
            status: status.map(|status| status.as_u16()),
            idempotency_key: self.idempotency_key.as_deref(),
            ms: ms(self.since.elapsed()),
        });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.is_written {
            self.write(None, None);
        }
    }
}

impl Trail {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes which client asks.
    pub(crate) fn client(&self, client: &RequestClient) {
        let mut found = self.found();
        found.address = Some(client.address);
        found.token = client.caller.name().map(str::to_owned);
    }

    /// Notes that the request is over the limit of its caller, whatever form the answer has.
    pub(crate) fn over_the_limit(&self) {
        self.found().denied = Some(StatusCode::TOO_MANY_REQUESTS);
    }

    /// Notes that a route has the request.
    pub(crate) fn routed(&self) {
        self.found().is_routed = true;
    }

    /// Notes what a command is about.
    pub(crate) fn command(&self, command: &Command) {
        self.found().subject = Subject::of_command(command);
    }

    /// Notes the member that a change is about.
    pub(crate) fn member(&self, name: &str) {
        self.found().subject.member = Some(shortened(name));
    }

    /// Notes the index of a change.
    pub(crate) fn index(&self, index: u64) {
        self.found().index = Some(index);
    }
}

/// Escapes in JSON what JSON allows and a terminal does not; outside of strings JSON has no such character.
fn escaped(line: String) -> String {
    if !line.contains(forges) {
        return line;
    }
    // All of them are in the first plane, so one escape of four digits holds each.
    line.chars().map(|c| if forges(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() }).collect()
}

/// Formats a time as in RFC 3339, in UTC with milliseconds.
fn time(at: SystemTime) -> String {
    // The formatter panics before 1970, where a machine without a battery may start.
    humantime::format_rfc3339_millis(at.max(SystemTime::UNIX_EPOCH)).to_string()
}

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn texts_of_clients_cannot_forge_a_line() {
        let key = "a\n{\"event\":\"x\"}\u{1b}[2J\u{9b}31m\u{202e}\u{7f}";
        let line = escaped(serde_json::to_string(&json!({ "key": key })).unwrap());
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["key"], key);
    }
}
