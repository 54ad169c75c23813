//! The HTTP routes of a node as methods of [`Client`].
//!
//! Why: a program should not build paths and headers by hand, and values must be transferred byte for byte.
//!
//! Invariants: items and results are returned as the JSON text that the node wrote, so no number loses a digit.
//! Membership changes carry no idempotency key and are not retried once their outcome is unknown.
//!
//! See also: `cluster_client` for endpoints, `retry` for the retry rule.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, IF_NONE_MATCH};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::cluster_client::Client;
use super::failure::Failure;
use super::http_client::{ApiRequest, ApiResponse};
use super::retry::{NO_NODE, RequestKind};
use crate::model::Outcome;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Characters that need no escape in a path or a query (RFC 3986, unreserved).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The consistency of a read; linearizable by default.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// Read the applied state of the node that responds: possibly old, without a quorum.
    pub stale: bool,
    /// For stale reads, the maximum time since the node's last contact with a leader, 1 ms to 60 s.
    pub max_stale: Option<Duration>,
    /// The index that the node must have applied.
    pub min_index: Option<u64>,
}

/// The condition of a write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// The key has this version.
    Version(u64),
    /// The key exists.
    Exists,
    /// The key does not exist.
    Absent,
}

/// The options of a write or a delete.
#[derive(Debug, Clone, Default)]
pub struct Write {
    /// The condition.
    pub condition: Condition,
    /// The content type of the value; by default the node derives it from the bytes.
    pub content_type: Option<String>,
    /// The TTL in seconds.
    pub ttl: Option<u64>,
    /// The idempotency key: 1 to 64 bytes, unique for every write. The write is applied once however often it is sent.
    pub idempotency_key: Option<String>,
}

/// A stored value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The value.
    pub bytes: Bytes,
    /// Its content type.
    pub content_type: String,
    /// The raft index of its last change.
    pub version: u64,
}

/// A range of keys in byte order, and what a page of it shows.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// The prefix of all keys.
    pub prefix: Option<String>,
    /// The first key.
    pub start: Option<String>,
    /// The end of the range, exclusive.
    pub end: Option<String>,
    /// Whether the order is descending.
    pub reverse: bool,
    /// Whether to list keys without values.
    pub keys: bool,
    /// The size of a page, 1 to 1 000; 100 by default.
    pub limit: Option<u64>,
}

/// A page of a list: the state at `index`.
#[derive(Debug, Clone, Deserialize)]
pub struct Page {
    /// The items as JSON; with `keys`, strings.
    pub items: Vec<Box<RawValue>>,
    /// The cursor of the next page; none at the end.
    pub next_cursor: Option<String>,
    /// The index of the state.
    pub index: u64,
}

/// The result of a membership change.
#[derive(Debug, Clone, Deserialize)]
pub struct MembershipChange {
    /// What was done, for a terminal.
    pub message: String,
    /// A warning for the operator.
    pub warning: Option<String>,
    /// The data that the node gave up.
    pub dropped: Option<String>,
}

/// The envelope of a success.
#[derive(Deserialize)]
struct Success<T> {
    data: T,
}

#[derive(Deserialize)]
struct PutResult {
    version: u64,
}

#[derive(Deserialize)]
struct DeleteResult {
    deleted: bool,
}

#[derive(Deserialize)]
struct DeletePrefixResult {
    deleted: u64,
    more: bool,
}

impl Client {
    /// Reads the value of `key`; none where there is no such key.
    ///
    /// # Errors
    /// [`Failure`] where no endpoint responded for good in time.
    pub async fn get(&self, key: &str, read: &Read) -> Result<Option<Stored>, Failure> {
        let mut query = read.query();
        query.push(("raw", "true".to_owned()));
        let request = ApiRequest::new(Method::GET, path(&key_path(key), &query));
        let Some(response) = none_if_not_found(self.send(read.kind(), &request).await)? else { return Ok(None) };
        let header = |name| response.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let version =
            header(ETAG).trim_matches('"').parse().map_err(|_| no_node(read.kind(), "a value without its version"))?;
        let content_type = header(CONTENT_TYPE).to_owned();
        Ok(Some(Stored { content_type, version, bytes: response.body }))
    }

    /// Reads the item of `key` as JSON: value, versions, type, `ttl` if it expires, `by` (the token of the last write) where
    /// there is one; none where there is no such key.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn item(&self, key: &str, read: &Read) -> Result<Option<Box<RawValue>>, Failure> {
        let request = ApiRequest::new(Method::GET, path(&key_path(key), &read.query()));
        none_if_not_found(self.send(read.kind(), &request).await)?
            .map(|response| parse_data(read.kind(), &response))
            .transpose()
    }

    /// Stores `value` and returns its version; it is then durable on a majority.
    ///
    /// # Errors
    /// [`Failure`]; its `outcome` says whether the value may have been stored. Its code is `precondition_failed` where
    /// the condition is not true.
    pub async fn put(&self, key: &str, value: impl Into<Bytes>, write: &Write) -> Result<u64, Failure> {
        let value = value.into();
        let ttl = write.ttl.map(|seconds| ("ttl", seconds.to_string()));
        // Without this flag the node refuses an empty body as a mistake.
        let empty = value.is_empty().then(|| ("empty", "true".to_owned()));
        let query: Vec<_> = ttl.into_iter().chain(empty).collect();
        let mut request = ApiRequest::new(Method::PUT, path(&key_path(key), &query)).body(value);
        if let Some(content_type) = &write.content_type {
            request = header(request, CONTENT_TYPE, content_type)?;
        }
        let put: PutResult = parse_data(write.kind(), &self.send(write.kind(), &write.add_headers(request)?).await?)?;
        Ok(put.version)
    }

    /// Deletes `key` and returns whether it existed.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn delete(&self, key: &str, write: &Write) -> Result<bool, Failure> {
        let request = write.add_headers(ApiRequest::new(Method::DELETE, key_path(key)))?;
        let deleted: DeleteResult = parse_data(write.kind(), &self.send(write.kind(), &request).await?)?;
        Ok(deleted.deleted)
    }

    /// Deletes some of the keys with the non-empty `prefix`; returns how many, and whether there are more.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn delete_prefix(&self, prefix: &str) -> Result<(u64, bool), Failure> {
        let request = ApiRequest::new(Method::DELETE, path("/store", &[("prefix", prefix.to_owned())]));
        let result: DeletePrefixResult =
            parse_data(RequestKind::Write, &self.send(RequestKind::Write, &request).await?)?;
        Ok((result.deleted, result.more))
    }

    /// Lists a page of keys: the first, or the one at the `next_cursor` of another page.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn list(&self, range: &Range, read: &Read, cursor: Option<&str>) -> Result<Page, Failure> {
        let mut query = read.query();
        let text = |value: &Option<String>| value.clone();
        let given = [
            ("prefix", text(&range.prefix)),
            ("start", text(&range.start)),
            ("end", text(&range.end)),
            ("limit", range.limit.map(|limit| limit.to_string())),
            ("cursor", cursor.map(str::to_owned)),
            ("reverse", range.reverse.then(|| "true".to_owned())),
            ("keys", range.keys.then(|| "true".to_owned())),
        ];
        query.extend(given.into_iter().filter_map(|(name, value)| Some((name, value?))));
        parse_data(read.kind(), &self.send(read.kind(), &ApiRequest::new(Method::GET, path("/store", &query))).await?)
    }

    /// Applies a transaction, `{"if": [...], "then": [...], "else": [...]}`; returns
    /// `{"succeeded", "results", "index"}`.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn txn(&self, body: Bytes, idempotency_key: Option<&str>) -> Result<Box<RawValue>, Failure> {
        let write = Write { idempotency_key: idempotency_key.map(str::to_owned), ..Write::default() };
        let request = json_body(ApiRequest::new(Method::POST, "/txn").body(body))?;
        parse_data(write.kind(), &self.send(write.kind(), &write.add_headers(request)?).await?)
    }

    /// Reads the `data` of `/raft/stats` of any node; [`super::NodeStats`] parses it.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn stats(&self) -> Result<Box<RawValue>, Failure> {
        parse_data(
            RequestKind::Local,
            &self.send(RequestKind::Local, &ApiRequest::new(Method::GET, "/raft/stats")).await?,
        )
    }

    /// Joins the node at `raft_address` as a voter called `name`. With `force` the node discards data of its own.
    ///
    /// # Errors
    /// [`Failure`]; `join_unfinished` where the same call resumes the join.
    pub async fn join(&self, name: &str, raft_address: &str, force: bool) -> Result<MembershipChange, Failure> {
        let mut body = json!({ "node_id": name, "raft_address": raft_address });
        if force {
            body["force"] = Value::Bool(true);
        }
        self.change_members("/raft/join", &body).await
    }

    /// Removes the member called `name`.
    ///
    /// # Errors
    /// [`Failure`]; its `outcome` says whether the member may have been removed.
    pub async fn remove(&self, name: &str) -> Result<MembershipChange, Failure> {
        self.change_members("/raft/remove", &json!({ "node_id": name })).await
    }

    /// Transfers the leadership to the voter called `name`, or to the most up-to-date one.
    ///
    /// # Errors
    /// As [`Client::remove`].
    pub async fn transfer(&self, name: Option<&str>) -> Result<MembershipChange, Failure> {
        self.change_members("/raft/transfer", &name.map_or_else(|| json!({}), |name| json!({ "node_id": name }))).await
    }

    async fn change_members(&self, route: &str, body: &Value) -> Result<MembershipChange, Failure> {
        let request = json_body(ApiRequest::new(Method::POST, route).body(body.to_string()))?;
        parse_body(RequestKind::Write, &self.send(RequestKind::Write, &request).await?)
    }
}

impl Read {
    fn kind(&self) -> RequestKind {
        if self.stale { RequestKind::Local } else { RequestKind::Read }
    }

    fn query(&self) -> Vec<(&'static str, String)> {
        let given = [
            ("consistency", self.stale.then(|| "stale".to_owned())),
            ("max_stale", self.max_stale.map(|most| format!("{}ms", most.as_millis()))),
            ("min_index", self.min_index.map(|index| index.to_string())),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

impl Write {
    fn kind(&self) -> RequestKind {
        if self.idempotency_key.is_some() { RequestKind::Keyed } else { RequestKind::Write }
    }

    /// Adds the headers of the condition and of the idempotency key.
    fn add_headers(&self, request: ApiRequest) -> Result<ApiRequest, Failure> {
        let request = match self.condition {
            Condition::None => request,
            Condition::Version(0) | Condition::Absent => header(request, IF_NONE_MATCH, "*")?,
            Condition::Version(version) => header(request, IF_MATCH, &format!("\"{version}\""))?,
            Condition::Exists => header(request, IF_MATCH, "*")?,
        };
        match &self.idempotency_key {
            Some(key) => header(request, IDEMPOTENCY_KEY, key),
            None => Ok(request),
        }
    }
}

/// A path with its query.
pub(super) fn path(route: &str, query: &[(&str, String)]) -> String {
    let mut path = route.to_owned();
    for (place, (name, value)) in query.iter().enumerate() {
        let mark = if place == 0 { '?' } else { '&' };
        // Writing to memory does not fail.
        write!(path, "{mark}{name}={}", utf8_percent_encode(value, UNRESERVED)).ok();
    }
    path
}

fn key_path(key: &str) -> String {
    format!("/store/{}", utf8_percent_encode(key, UNRESERVED))
}

fn header(request: ApiRequest, name: HeaderName, value: &str) -> Result<ApiRequest, Failure> {
    let failure = |detail| Failure::local("the request", "bad_request", detail, Outcome::NotApplied);
    request.header(name, value).map_err(failure)
}

fn json_body(request: ApiRequest) -> Result<ApiRequest, Failure> {
    header(request, CONTENT_TYPE, "application/json")
}

/// Maps `key_not_found` to none.
fn none_if_not_found(response: Result<ApiResponse, Failure>) -> Result<Option<ApiResponse>, Failure> {
    match response {
        Err(failure) if failure.code == "key_not_found" => Ok(None),
        response => response.map(Some),
    }
}

pub(super) fn parse_data<T: DeserializeOwned>(kind: RequestKind, response: &ApiResponse) -> Result<T, Failure> {
    Ok(parse_body::<Success<T>>(kind, response)?.data)
}

fn parse_body<T: DeserializeOwned>(kind: RequestKind, response: &ApiResponse) -> Result<T, Failure> {
    let missing = |error| no_node(kind, &format!("a success without its data: {error}"));
    serde_json::from_slice(&response.body).map_err(missing)
}

/// The response is a success, but not that of a huskv node, so the outcome of a write is unknown. A read changes nothing.
fn no_node(kind: RequestKind, what: &str) -> Failure {
    let outcome = if kind.is_write() { Outcome::Unknown } else { Outcome::NotApplied };
    Failure::local("the endpoint", NO_NODE, format!("it answers {what}, so it is no huskv node"), outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_key_is_escaped_in_a_path() {
        assert_eq!(key_path("a/b c%é?"), "/store/a%2Fb%20c%25%C3%A9%3F");
        assert_eq!(key_path("ends/"), "/store/ends%2F");
        let query = [("prefix", "a&b=c+".to_owned()), ("limit", "5".to_owned())];
        assert_eq!(path("/store", &query), "/store?prefix=a%26b%3Dc%2B&limit=5");
    }

    #[test]
    fn conditions_and_idempotency_keys_become_headers() {
        let headers = |write: &Write| write.add_headers(ApiRequest::new(Method::PUT, "/")).unwrap().headers;
        let conditional = |condition| headers(&Write { condition, ..Write::default() });
        assert_eq!(conditional(Condition::Version(7))[IF_MATCH], "\"7\"");
        assert_eq!(conditional(Condition::Version(0))[IF_NONE_MATCH], "*");
        assert_eq!(conditional(Condition::Exists)[IF_MATCH], "*");
        assert!(conditional(Condition::None).is_empty());
        let keyed = Write { idempotency_key: Some("k1".into()), ..Write::default() };
        assert_eq!((headers(&keyed)[IDEMPOTENCY_KEY].to_str().unwrap(), keyed.kind()), ("k1", RequestKind::Keyed));
        let bad = Write { idempotency_key: Some("a\nb".into()), ..Write::default() };
        assert_eq!(bad.add_headers(ApiRequest::new(Method::PUT, "/")).unwrap_err().code, "bad_request");
    }
}
