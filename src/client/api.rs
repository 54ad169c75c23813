//! What a cluster can be asked: the routes of huskv as methods.
//!
//! Why: a program should not build paths and headers by hand, and values must come and go byte for byte.
//!
//! Laws: items and results are handed on as the JSON text that the node wrote, so no number loses a digit. Membership
//! changes carry no key and are never repeated once their outcome is unknown.
//!
//! Not here: where a request goes and whether it goes again ([`super::Client`], `retry`).

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

use super::retry::{Kind, NO_NODE};
use super::wire::{Answer, Ask};
use super::{Client, Failure};
use crate::model::Outcome;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// What need not be escaped anywhere in a path or a query.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How fresh a read has to be.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// What the asked node has applied is enough; it may be old, and needs no quorum.
    pub stale: bool,
    /// How long ago the node's last contact with a leader may be; for stale reads, 1 ms to 60 s.
    pub max_stale: Option<Duration>,
    /// The node must have applied this index.
    pub min_index: Option<u64>,
}

/// What must be true of the key for a write to happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// It has this version.
    Version(u64),
    /// It exists.
    Exists,
    /// It does not exist.
    Absent,
}

/// How a value is written, or removed.
#[derive(Debug, Clone, Default)]
pub struct Write {
    /// What must be true of the key.
    pub condition: Condition,
    /// The type of the value; without it the node looks at the bytes.
    pub content_type: Option<String>,
    /// After how many seconds the key goes by itself.
    pub ttl: Option<u64>,
    /// Makes the write happen once however often it is sent: 1 to 64 bytes, another for every write.
    pub idempotency_key: Option<String>,
}

/// A value as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The value itself.
    pub bytes: Bytes,
    /// Its type.
    pub content_type: String,
    /// The raft index of its last change.
    pub version: u64,
}

/// Which keys are listed, in byte order.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// What they begin with.
    pub prefix: Option<String>,
    /// The first.
    pub start: Option<String>,
    /// The first that is not listed any more.
    pub end: Option<String>,
    /// Whether the greatest comes first.
    pub reverse: bool,
    /// Whether the keys come without their values.
    pub keys: bool,
    /// How many a page has, 1 to 1 000; 100 without it.
    pub limit: Option<u64>,
}

/// A page of a list: one state, that at `index`.
#[derive(Debug, Clone, Deserialize)]
pub struct Page {
    /// The items as JSON; of `keys` strings.
    pub items: Vec<Box<RawValue>>,
    /// Where the next page begins; none at the end.
    pub next_cursor: Option<String>,
    /// The index of the state.
    pub index: u64,
}

/// What a membership change came to.
#[derive(Debug, Clone, Deserialize)]
pub struct Change {
    /// What was done, for a person.
    pub message: String,
    /// What the operator should know.
    pub warning: Option<String>,
    /// What was given up.
    pub dropped: Option<String>,
}

/// The part of a success that counts.
#[derive(Deserialize)]
struct Success<T> {
    data: T,
}

#[derive(Deserialize)]
struct Persisted {
    version: u64,
}

#[derive(Deserialize)]
struct Deleted {
    deleted: bool,
}

#[derive(Deserialize)]
struct PrefixDeleted {
    deleted: u64,
    more: bool,
}

impl Client {
    /// The value of `key`; none where there is no such key.
    ///
    /// # Errors
    /// [`Failure`] where no endpoint could answer.
    pub async fn get(&self, key: &str, read: &Read) -> Result<Option<Stored>, Failure> {
        let mut query = read.query();
        query.push(("raw", "true".to_owned()));
        let ask = Ask::new(Method::GET, path(&key_path(key), &query));
        let Some(answer) = present(self.send(read.kind(), &ask).await)? else { return Ok(None) };
        let header = |name| answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let version = header(ETAG).trim_matches('"').parse().map_err(|_| no_node("a value without its version"))?;
        let content_type = header(CONTENT_TYPE).to_owned();
        Ok(Some(Stored { content_type, version, bytes: answer.body }))
    }

    /// The item of `key` as JSON: value, versions, type; none where there is no such key.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn item(&self, key: &str, read: &Read) -> Result<Option<Box<RawValue>>, Failure> {
        let ask = Ask::new(Method::GET, path(&key_path(key), &read.query()));
        present(self.send(read.kind(), &ask).await)?.map(|answer| data(&answer)).transpose()
    }

    /// Stores `value`; its version. It is durable on a majority then.
    ///
    /// # Errors
    /// [`Failure`]; its `outcome` says whether the value may have been stored all the same. `precondition_failed` where
    /// the condition is not true.
    pub async fn put(&self, key: &str, value: impl Into<Bytes>, write: &Write) -> Result<u64, Failure> {
        let value = value.into();
        let ttl = write.ttl.map(|seconds| ("ttl", seconds.to_string()));
        // Without a word an empty body is taken for a mistake.
        let empty = value.is_empty().then(|| ("empty", "true".to_owned()));
        let query: Vec<_> = ttl.into_iter().chain(empty).collect();
        let mut ask = Ask::new(Method::PUT, path(&key_path(key), &query)).body(value);
        if let Some(content_type) = &write.content_type {
            ask = header(ask, CONTENT_TYPE, content_type)?;
        }
        let persisted: Persisted = data(&self.send(write.kind(), &write.on(ask)?).await?)?;
        Ok(persisted.version)
    }

    /// Removes `key`; whether it was there.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn delete(&self, key: &str, write: &Write) -> Result<bool, Failure> {
        let ask = write.on(Ask::new(Method::DELETE, key_path(key)))?;
        let deleted: Deleted = data(&self.send(write.kind(), &ask).await?)?;
        Ok(deleted.deleted)
    }

    /// Removes some of the keys that begin with `prefix`, which is not empty; how many, and whether there are more.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn delete_some(&self, prefix: &str) -> Result<(u64, bool), Failure> {
        let ask = Ask::new(Method::DELETE, path("/store", &[("prefix", prefix.to_owned())]));
        let swept: PrefixDeleted = data(&self.send(Kind::Write, &ask).await?)?;
        Ok((swept.deleted, swept.more))
    }

    /// A page of keys: the first, or the one that the `next_cursor` of another names.
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
        data(&self.send(read.kind(), &Ask::new(Method::GET, path("/store", &query))).await?)
    }

    /// Has a transaction applied, `{"if": [...], "then": [...], "else": [...]}`; `{"succeeded", "results", "index"}`.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn txn(&self, body: Bytes, idempotency_key: Option<&str>) -> Result<Box<RawValue>, Failure> {
        let write = Write { idempotency_key: idempotency_key.map(str::to_owned), ..Write::default() };
        let ask = json_body(Ask::new(Method::POST, "/txn").body(body))?;
        data(&self.send(write.kind(), &write.on(ask)?).await?)
    }

    /// What a node says of itself and its cluster: the data of `/raft/stats`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn stats(&self) -> Result<Box<RawValue>, Failure> {
        data(&self.send(Kind::Local, &Ask::new(Method::GET, "/raft/stats")).await?)
    }

    /// Makes the node that answers at `raft_address` a voter called `name`. With `force` it gives up data of its own.
    ///
    /// # Errors
    /// [`Failure`]; `join_unfinished` where the same call goes on with it.
    pub async fn join(&self, name: &str, raft_address: &str, force: bool) -> Result<Change, Failure> {
        let mut body = json!({ "node_id": name, "raft_address": raft_address });
        if force {
            body["force"] = Value::Bool(true);
        }
        self.change("/raft/join", &body).await
    }

    /// Takes the member called `name` out.
    ///
    /// # Errors
    /// [`Failure`]; its `outcome` says whether it may have been done all the same.
    pub async fn remove(&self, name: &str) -> Result<Change, Failure> {
        self.change("/raft/remove", &json!({ "node_id": name })).await
    }

    /// Moves the leadership to the voter called `name`, or to the one that is most caught up.
    ///
    /// # Errors
    /// As [`Client::remove`].
    pub async fn transfer(&self, name: Option<&str>) -> Result<Change, Failure> {
        self.change("/raft/transfer", &name.map_or_else(|| json!({}), |name| json!({ "node_id": name }))).await
    }

    async fn change(&self, route: &str, body: &Value) -> Result<Change, Failure> {
        let ask = json_body(Ask::new(Method::POST, route).body(body.to_string()))?;
        whole(&self.send(Kind::Write, &ask).await?)
    }
}

impl Read {
    fn kind(&self) -> Kind {
        if self.stale { Kind::Local } else { Kind::Read }
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
    fn kind(&self) -> Kind {
        if self.idempotency_key.is_some() { Kind::Keyed } else { Kind::Write }
    }

    /// Adds the condition and the key to a request.
    fn on(&self, ask: Ask) -> Result<Ask, Failure> {
        let ask = match self.condition {
            Condition::None => ask,
            Condition::Version(0) | Condition::Absent => header(ask, IF_NONE_MATCH, "*")?,
            Condition::Version(version) => header(ask, IF_MATCH, &format!("\"{version}\""))?,
            Condition::Exists => header(ask, IF_MATCH, "*")?,
        };
        match &self.idempotency_key {
            Some(key) => header(ask, IDEMPOTENCY_KEY, key),
            None => Ok(ask),
        }
    }
}

/// A path with its query.
pub(super) fn path(route: &str, query: &[(&str, String)]) -> String {
    let mut path = route.to_owned();
    for (place, (name, value)) in query.iter().enumerate() {
        let mark = if place == 0 { '?' } else { '&' };
        // Writing to memory does not fail.
        write!(path, "{mark}{name}={}", utf8_percent_encode(value, PLAIN)).ok();
    }
    path
}

fn key_path(key: &str) -> String {
    format!("/store/{}", utf8_percent_encode(key, PLAIN))
}

fn header(ask: Ask, name: HeaderName, value: &str) -> Result<Ask, Failure> {
    let refused = |detail| Failure::here("the request", "bad_request", detail, Outcome::NotApplied);
    ask.header(name, value).map_err(refused)
}

fn json_body(ask: Ask) -> Result<Ask, Failure> {
    header(ask, CONTENT_TYPE, "application/json")
}

/// None where there is no such key.
fn present(answer: Result<Answer, Failure>) -> Result<Option<Answer>, Failure> {
    match answer {
        Err(failure) if failure.code == "key_not_found" => Ok(None),
        answer => answer.map(Some),
    }
}

fn data<T: DeserializeOwned>(answer: &Answer) -> Result<T, Failure> {
    Ok(whole::<Success<T>>(answer)?.data)
}

fn whole<T: DeserializeOwned>(answer: &Answer) -> Result<T, Failure> {
    serde_json::from_slice(&answer.body).map_err(|error| no_node(&format!("a success without its data: {error}")))
}

/// The request was answered by a success that is none of huskv's, so what became of it is not known.
fn no_node(what: &str) -> Failure {
    Failure::here("the endpoint", NO_NODE, format!("it answers {what}, so it is no huskv node"), Outcome::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_key_survives_the_path() {
        assert_eq!(key_path("a/b c%é?"), "/store/a%2Fb%20c%25%C3%A9%3F");
        assert_eq!(key_path("ends/"), "/store/ends%2F");
        let query = [("prefix", "a&b=c+".to_owned()), ("limit", "5".to_owned())];
        assert_eq!(path("/store", &query), "/store?prefix=a%26b%3Dc%2B&limit=5");
    }

    #[test]
    fn conditions_and_keys_become_headers() {
        let on = |write: &Write| write.on(Ask::new(Method::PUT, "/")).unwrap().headers;
        let conditional = |condition| on(&Write { condition, ..Write::default() });
        assert_eq!(conditional(Condition::Version(7))[IF_MATCH], "\"7\"");
        assert_eq!(conditional(Condition::Version(0))[IF_NONE_MATCH], "*");
        assert_eq!(conditional(Condition::Exists)[IF_MATCH], "*");
        assert!(conditional(Condition::None).is_empty());
        let keyed = Write { idempotency_key: Some("k1".into()), ..Write::default() };
        assert_eq!((on(&keyed)[IDEMPOTENCY_KEY].to_str().unwrap(), keyed.kind()), ("k1", Kind::Keyed));
        let bad = Write { idempotency_key: Some("a\nb".into()), ..Write::default() };
        assert_eq!(bad.on(Ask::new(Method::PUT, "/")).unwrap_err().code, "bad_request");
    }
}
